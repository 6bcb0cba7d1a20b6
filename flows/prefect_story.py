"""What Prefect's server adds to the story of a store: flow runs by state, steps that were reused whole, failures."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.prefect_server import prefect_client
from training.made import Made

PAGE = 200
"""The most that Prefect gives at once."""
MAX_PAGES = 10
FAILED = ("FAILED", "CRASHED")
FLOWS = (
    "retrain", "watch",
    "ingest", "base", "featurize", "train", "evaluate", "register",
    "promote", "rollback", "approve", "refuse",
)  # fmt: skip
"""By name, as a server that a team shares has flows of others too."""
FINGERPRINT = re.compile(r"fingerprint ([0-9a-f]{12})")
"""In the message of a step's state `Cached`, as `flows.plan.why_reused` writes it."""


class FlowRuns(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    flow: str
    state: str
    count: int


class Reused(BaseModel):
    """Reuses of whole outputs of one step."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    step: str
    times: int
    accelerator_seconds_saved: float
    """What their manifests say that they took, once for each time."""


class Failure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    flow_run: str
    state: str
    at: str
    message: str


class PrefectStory(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    flow_runs: list[FlowRuns]
    reused: list[Reused]
    failures: list[Failure]
    """Newest first."""
    is_cut: bool
    """Whether there are more runs than the newest `MAX_PAGES * PAGE` of our flows that were read."""


def prefect_story(outputs: Sequence[Made]) -> PrefectStory | None:
    """None where PREFECT_API_URL names no server. Raises PlatformError where it does not answer.

    A `frostline run` that finds everything done starts no flow, so Prefect does not know of it either."""
    if not os.environ.get("PREFECT_API_URL"):
        return None
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

    ours = filters.FlowFilter(name=filters.FlowFilterName(any_=list(FLOWS)))
    # Prefect keeps up to 100 runs to come for each schedule.
    begun = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(not_any_=[StateType.SCHEDULED]))
    )
    cached = filters.TaskRunFilter(
        state=filters.TaskRunFilterState(name=filters.TaskRunFilterStateName(any_=["Cached"]))
    )
    with prefect_client("to tell of flow runs", "Start it, then ask again.") as client:
        flows = {
            flow.id: flow.name
            for flow in _pages(lambda at: client.read_flows(flow_filter=ours, limit=PAGE, offset=at))[0]
        }
        runs, runs_cut = _pages(
            lambda at: client.read_flow_runs(
                flow_filter=ours, flow_run_filter=begun, sort=FlowRunSort.START_TIME_DESC, limit=PAGE, offset=at
            )
        )
        tasks, tasks_cut = _pages(
            lambda at: client.read_task_runs(
                flow_filter=ours, task_run_filter=cached, sort=TaskRunSort.END_TIME_DESC, limit=PAGE, offset=at
            )
        )
    counts = Counter((flows[run.flow_id], str(run.state_name)) for run in runs)
    return PrefectStory(
        flow_runs=[FlowRuns(flow=flow, state=state, count=count) for (flow, state), count in sorted(counts.items())],
        reused=reused_by([task.state.message or "" for task in tasks if task.state is not None], outputs),
        failures=[_failure(run) for run in runs if run.state_type is not None and run.state_type.value in FAILED],
        is_cut=runs_cut or tasks_cut,
    )


def reused_by(messages: Sequence[str], outputs: Sequence[Made]) -> list[Reused]:
    """`messages` of steps that ended as `Cached`. Those of outputs that are in another store are left out."""
    known: Mapping[str, Made] = {made.fingerprint[:12]: made for made in outputs}
    times = Counter(found[1] for message in messages if (found := FINGERPRINT.search(message)))
    by_step: dict[tuple[str, str], tuple[int, float]] = {}
    for fingerprint, count in times.items():
        if (made := known.get(fingerprint)) is not None:
            before = by_step.get((made.recipe, made.step), (0, 0.0))
            saved = before[0] + count, before[1] + count * made.accelerator_seconds
            by_step[made.recipe, made.step] = saved
    return [
        Reused(recipe=recipe, step=step, times=count, accelerator_seconds_saved=seconds)
        for (recipe, step), (count, seconds) in sorted(by_step.items())
    ]


def _pages(read: Callable[[int], list[Any]]) -> tuple[list[Any], bool]:
    """(what was read, whether there is more)."""
    found: list[Any] = []
    for page in range(MAX_PAGES):
        more = read(page * PAGE)
        found += more
        if len(more) < PAGE:
            return found, False
    return found, True


def _failure(run: Any) -> Failure:
    at = run.end_time or run.start_time or run.expected_start_time
    told = " ".join((run.state.message or "").split())
    return Failure(
        flow_run=run.name, state=str(run.state_name), at=at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else "",
        message=told[:300],
    )  # fmt: skip
