"""Versions as Ray Serve applications: put up beside one another, and taken down."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigError, DataError, FrostlineError, IntegrityError, PlatformError
from infra.ray import worker_environment
from training.serving.loading import VersionPlace
from training.serving.work import ModelFacts

FACTS_SECONDS = 60
LOAD_SECONDS = 1800
"""For a replica to find room and to load. Ray Serve itself would wait for ever for a GPU that is taken."""
POLL_SECONDS = 0.2
_OURS: dict[str, type[FrostlineError]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, IntegrityError, PlatformError)
}


@dataclass(frozen=True)
class Replicas:
    """With how much a version is served."""

    min_replicas: int = 1
    max_replicas: int = 1
    threads: int = 1
    """Of torch, in each replica."""
    gpus: float = 0
    max_batch: int = 16
    """Requests that are answered together at most. While a replica computes, the next batch gathers."""
    target_ongoing_requests: float = 8
    """Per replica: more of them, and another one is started."""


@dataclass
class Served:
    """A version that is up."""

    application: str
    handle: Any
    """Ray Serve's, to the deployment."""
    facts: ModelFacts
    num_asked: int = field(default=0)
    """Requests that it has and that are not answered yet."""


def start_serve() -> None:
    """On the connected Ray, where it does not run yet, without its own HTTP proxy: the door is before the handles."""
    from ray import serve

    serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "WARNING"})


def stop_serve(door: str, started_here: bool) -> None:
    """All of Serve, where Ray was started here. Elsewhere only the applications whose names begin with the door's: a
    shutdown would take every other server's replicas down. Raises PlatformError where the cluster does not answer."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    if started_here:
        serve.shutdown()
        return
    try:
        for application in _applications():
            if application.startswith(f"{door}-"):
                take_down(application)
    except (RayError, RayServeException, TimeoutError) as error:
        raise PlatformError(
            f"the replicas of {door} may be up still: Ray Serve answered {type(error).__name__}; expected that they "
            "end. Delete these applications, as infra/RUNBOOK.md says at `replicas without a server`."
        ) from error


def put_up(
    application: str, place: VersionPlace, replicas: Replicas, initial_replicas: int, given_up: Callable[[], bool]
) -> Served:
    """Returns once a replica has loaded the version. Raises what loading raised, or soon after it is given up; nothing
    of it stays then."""
    from ray import serve

    from training.serving.replica import Replica

    deployment = serve.deployment(Replica).options(
        name="replica",
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "initial_replicas": min(max(initial_replicas, replicas.min_replicas), replicas.max_replicas),
            "target_ongoing_requests": replicas.target_ongoing_requests,
        },
        max_ongoing_requests=4 * replicas.max_batch,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=60,
        ray_actor_options={
            "num_cpus": replicas.threads,
            "num_gpus": replicas.gpus,
            "runtime_env": {"env_vars": worker_environment(replicas.threads, replicas.gpus)},
        },
    )
    try:
        start_serve()  # whoever shares the cluster may have shut it down since
        target = serve.RunTarget(deployment.bind(place, replicas.max_batch), name=application, route_prefix=None)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        _wait_until_running(application, given_up)
        facts = handle.facts.remote().result(timeout_s=FACTS_SECONDS)
    except Exception as error:  # Serve wraps whatever a constructor raised in its own words
        raised = _own_error(application, place, error)
        take_down(application)
        raise raised from error
    return Served(application, handle, facts)


def _wait_until_running(application: str, given_up: Callable[[], bool]) -> None:
    """Raises RuntimeError where it cannot be started or is given up, TimeoutError after LOAD_SECONDS."""
    from ray import serve

    deadline = time.monotonic() + LOAD_SECONDS
    while (found := serve.status().applications[application]).status != "RUNNING":
        if found.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(found.message)
        if given_up():
            raise RuntimeError("the server was asked to stop")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"no replica was up after {LOAD_SECONDS} s; a swap needs room for two versions: check GPUs and CPUs"
            )
        time.sleep(POLL_SECONDS)


def take_down(application: str) -> None:
    from ray import serve

    serve.delete(application)


def num_replicas(application: str) -> int | None:
    """That run now; None where the application is not there any more."""
    found = _applications().get(application)
    if found is None:
        return None
    return sum(int(deployment.replica_states.get("RUNNING", 0)) for deployment in found.deployments.values())


def _applications() -> dict[str, Any]:
    """Of the whole cluster, by their names."""
    from ray import serve
    from ray.exceptions import ActorDiedError

    try:
        return dict(serve.status().applications)
    except ActorDiedError:  # Serve's controller, which nothing but a shutdown ends
        return {}


def _own_error(application: str, place: VersionPlace, error: Exception) -> FrostlineError:
    """What loading raised, found again in the traceback that Serve keeps as text."""
    from ray import serve

    found = serve.status().applications.get(application)
    told = [deployment.message for deployment in found.deployments.values()] if found else []
    for text in [*told, str(error)]:
        for line in reversed(text.splitlines()):
            if (match := re.match(r"\s*(?:infra\.errors\.)?(\w+): (.+)", line)) and match[1] in _OURS:
                return _OURS[match[1]](match[2])
    reason = (told or [str(error)])[0].strip().splitlines()
    return PlatformError(
        f"models:/{place.model_name}/{place.version}: no replica could be started "
        f"({reason[-1][:300] if reason else type(error).__name__}); expected one that is up. See the log."
    )
