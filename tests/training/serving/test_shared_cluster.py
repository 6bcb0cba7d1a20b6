"""Servers on a Ray cluster that is not theirs alone."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from running_server import Running
from served_model import NAME, ServedModel, serving

from infra.ray import connected
from infra.settings import RayResources
from training.serving.asking import Asking
from training.serving.fleet import num_replicas, start_serve, stop_serve
from training.serving.limits import Limits
from training.serving.metrics import Metrics
from training.serving.work import Work

pytestmark = pytest.mark.slow
FIXED = f"models:/{NAME}/1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The arguments with which a server joins it. This process has joined it too."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 8, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        with connected(RayResources(address=cluster.address), tmp_path_factory.mktemp("ray")) as started_here:
            assert not started_here
            yield ["--set", f"profile.ray.address={cluster.address}", "--set", "poll_seconds=0.3"]
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def one(cluster: list[str], served_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a fixed version."""
    with serving(served_model, tmp_path_factory.mktemp("one") / "log", cluster, uri=FIXED) as server:
        yield Running(served_model, server, served_model.pictures())


def applications() -> set[str]:
    return set(serve.status().applications)


@pytest.mark.long
def test_a_server_that_stops_leaves_the_others_of_the_cluster_answering(
    one: Any, cluster: list[str], served_model: ServedModel, tmp_path: Path
) -> None:
    before = applications()
    with serving(served_model, tmp_path / "log", cluster, uri=FIXED) as other:
        assert len(applications()) == 2
        assert Running(served_model, other, one.pictures).get("/readyz").status_code == 200
    assert applications() == before
    assert one.post("/v1/caption", files={"image": one.pictures[0]}).status_code == 200


@pytest.mark.long
def test_what_a_killed_server_leaves_is_named_after_it_and_is_deleted_without_the_others(
    one: Any, cluster: list[str], served_model: ServedModel, tmp_path: Path
) -> None:
    before = applications()
    with pytest.raises(AssertionError), serving(served_model, tmp_path / "log", cluster, uri=FIXED) as other:
        os.kill(other.pid, signal.SIGKILL)
    (left,) = applications() - before
    assert left.startswith(os.uname().nodename) and f"{NAME}-1" in left
    serve.delete(left)
    assert one.post("/v1/caption", files={"image": one.pictures[0]}).status_code == 200


def becomes(server: Running, status: int) -> dict[str, Any]:
    """What /readyz says once it has this status."""
    deadline = time.monotonic() + 120
    while (answer := server.get("/readyz")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return dict(answer.json())


def kill_replicas(application: str) -> None:
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{application}#"):
            ray.kill(ray.get_actor(**actor))


@pytest.mark.long
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (kill_replicas, "none of its replicas runs"),
        (serve.delete, "taken down by another hand"),
        (lambda _: serve.shutdown(), "taken down by another hand"),
    ],
    ids=["its replica is killed", "its application is deleted", "Serve is shut down"],
)
def test_a_server_without_a_replica_is_not_ready_until_it_has_one_again(
    one: Any, harm: Callable[[str], None], told: str
) -> None:
    (application,) = applications()
    harm(application)
    assert told in becomes(one, 503)["no_replica"]
    assert becomes(one, 200)["no_replica"] is None
    assert one.post("/v1/caption", files={"image": one.pictures[0]}).status_code == 200


def waiting_replica() -> Any:
    """A deployment that answers nothing, and counts the requests that were taken back."""

    class Waiting:
        def __init__(self) -> None:
            self.begun = self.taken_back = 0

        async def tell(self, _: Work) -> None:
            self.begun += 1
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.taken_back += 1
                raise

        async def counts(self) -> tuple[int, int]:
            return self.begun, self.taken_back

    return serve.deployment(Waiting).options(ray_actor_options={"num_cpus": 0}).bind()


class Served:
    """What serves, and pictures that are all good."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.facts, self.metrics = handle, None, Metrics()

    @contextmanager
    def asked(self) -> Iterator["Served"]:
        yield self

    async def check(self, _: bytes) -> None:
        pass


def test_a_request_that_nobody_waits_for_any_more_is_taken_back_from_its_replica(cluster: list[str]) -> None:
    start_serve()
    handle = serve.run(waiting_replica(), name="waiting", route_prefix=None)
    served = Served(handle)

    async def until(counts: tuple[int, int]) -> None:
        async with asyncio.timeout(60):
            while await handle.counts.remote() != counts:
                await asyncio.sleep(0.1)

    async def goes_away() -> None:
        asking = Asking(served, served, Limits())
        telling = asyncio.create_task(asking.tell(lambda _: Work(b"a picture"), b"a picture"))
        await until((1, 0))
        telling.cancel()
        await until((1, 1))

    try:
        asyncio.run(goes_away())
    finally:
        serve.delete("waiting")


def test_a_door_takes_down_what_it_put_up_and_whoever_shuts_serve_down_takes_the_rest(cluster: list[str]) -> None:
    """The same without a model: doors of one name's beginning, and a controller that is gone."""
    start_serve()
    names = ["host-a-tiny-1-1", "host-ab-tiny-1-1"]
    serve.run_many([serve.RunTarget(waiting_replica(), name=name, route_prefix=None) for name in names])
    assert [num_replicas(name) for name in names] == [1, 1]
    stop_serve("host-a", started_here=False)
    assert [num_replicas(name) for name in names] == [None, 1]
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    with suppress(ray.exceptions.RayActorError):  # it ends by itself
        ray.get(controller.graceful_shutdown.remote(), timeout=60)  # as another process asks for it
    assert num_replicas("host-ab-tiny-1-1") is None
    stop_serve("host-ab", started_here=False)
    start_serve()
    assert not applications()
