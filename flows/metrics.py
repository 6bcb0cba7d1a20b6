"""Prometheus metrics of a pipeline, told from its store at each scrape, and from Prefect where PREFECT_API_URL is set.

All are gauges: they tell what the store holds now, and an output that is withdrawn or collected takes its part away, as
no counter may. Labels are recipes, steps, devices, models, kinds, flows and states: none grows with the number of runs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from flows.overview import KINDS
from flows.storytelling import Told, tell
from infra.errors import ConfigError
from infra.store import Store
from training.made import OutputReader
from training.story import Work

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

ENDS = ("Completed", "Failed", "Crashed", "Cancelled")
"""States in which Prefect ends a flow run."""
FRESH_SECONDS = 15.0
"""For so long what was read is told again: several scrapers cost the store no more than one."""


class Metrics:
    """A collector of `prometheus_client`."""

    def __init__(self, store: Store, fresh_seconds: float = FRESH_SECONDS) -> None:
        self._outputs, self._fresh_seconds = OutputReader(store), fresh_seconds
        self._lock = threading.Lock()
        self._found: tuple[float, list[GaugeMetricFamily]] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with self._lock:
            if self._found is None or time.monotonic() - self._found[0] > self._fresh_seconds:
                self._found = time.monotonic(), self._read()
            return self._found[1]

    def _read(self) -> list[GaugeMetricFamily]:
        try:
            told, _ = tell(self._outputs)
        except Exception as error:  # whatever it is, the exporter goes on and tells
            print(f"frostline metrics: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return [_plain("frostline_store_readable", "1 where the store could be read just now.", 0)]
        return [_plain("frostline_store_readable", "1 where the store could be read just now.", 1), *_all_of(told)]


def _all_of(told: Told) -> Iterator[GaugeMetricFamily]:
    yield from _of_work(told.story.work)
    yield from _of_data(told)
    yield from _of_models(told)
    yield _plain("frostline_damaged_outputs", "Manifests that cannot be read.", len(told.story.damaged))
    yield _plain("frostline_retrains_at_work", "Claims that are held now.", len(told.at_work))
    yield from _of_prefect(told)


def _of_work(work: list[Work]) -> Iterator[GaugeMetricFamily]:
    def by_step(name: str, told: str, value: Callable[[Work], float]) -> GaugeMetricFamily:
        sums: Counter[tuple[str, ...]] = Counter()
        for one in work:
            sums[one.recipe, one.step] += value(one)  # type: ignore[assignment]  # Counter is typed for int
        return _gauge(name, told, ("recipe", "step"), sums.items())

    yield by_step("frostline_outputs", "Committed outputs.", lambda one: one.outputs)
    yield by_step(
        "frostline_step_seconds", "From start to commit, by the clock, of all outputs.", lambda one: one.seconds
    )
    yield by_step("frostline_parts", "Parts of all outputs.", lambda one: one.parts)
    yield by_step("frostline_parts_saved", "Parts taken over from earlier outputs.", lambda one: one.parts_saved)
    newest = {(one.recipe, one.step): one for one in sorted(work, key=lambda one: one.newest_at)}
    labels = ("recipe", "step")
    rows = ((key, one.rows) for key, one in newest.items())
    yield _gauge("frostline_rows", "Rows of the newest output.", labels, rows)
    times = ((key, _seconds(one.newest_at)) for key, one in newest.items())
    yield _gauge("frostline_newest_output_timestamp_seconds", "When it was committed.", labels, times)
    held = [one for one in work if one.device]
    by_device = ("recipe", "step", "device")
    spent = (((one.recipe, one.step, str(one.device)), one.accelerator_seconds) for one in held)
    yield _gauge("frostline_accelerator_seconds", "Seconds times GPUs held; on cpu as they are.", by_device, spent)
    saved = (((one.recipe, one.step, str(one.device)), one.accelerator_seconds_saved) for one in held)
    yield _gauge("frostline_accelerator_seconds_saved", "By images and replies taken over.", by_device, saved)
    units = {
        "featurize": ("frostline_encodes", "Images through the tower"),
        "evaluate": ("frostline_replies", "Replies"),
    }
    for step, (name, what) in units.items():
        of_step = [one for one in work if one.step == step]
        done, kept = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for one in of_step:
            done[one.recipe,] += one.units_done
            kept[one.recipe,] += one.units_saved
        yield _gauge(f"{name}_done", f"{what}, of all outputs.", ("recipe",), done.items())
        yield _gauge(f"{name}_saved", f"{what} that earlier outputs had.", ("recipe",), kept.items())


def _of_data(told: Told) -> Iterator[GaugeMetricFamily]:
    newest = {one.recipe: one for one in told.story.growth}
    recipe = ("recipe",)
    images = (((name,), one.images) for name, one in newest.items())
    yield _gauge("frostline_dataset_images", "Of the newest dataset.", recipe, images)
    bad = (((name,), one.quarantined) for name, one in newest.items())
    yield _gauge("frostline_quarantined_rows", "Of the newest dataset.", recipe, bad)
    speeds = {one.recipe: one for one in told.story.speeds}
    by_image = (((name,), one.images_per_second) for name, one in speeds.items())
    yield _gauge("frostline_training_images_per_second", "Median of the newest training.", recipe, by_image)
    by_token = (((name,), one.target_tokens_per_second) for name, one in speeds.items())
    yield _gauge("frostline_training_target_tokens_per_second", "Median of the newest training.", recipe, by_token)


def _of_models(told: Told) -> Iterator[GaugeMetricFamily]:
    models = told.story.models
    newest = {one.model: one for one in models.quality if one.serves}
    labels = ("model", "metric")
    for end in ("score", "low", "high"):
        values = (
            ((one.model, one.metric), value) for one in newest.values() if (value := getattr(one, end)) is not None
        )
        what = "The score" if end == "score" else f"The {end} end of its 95 % interval"
        yield _gauge(f"frostline_champion_{end}", f"{what}, primary metric, newest evaluation.", labels, values)
    versions = (((name,), float(version)) for name, version in models.champions.items() if version.isdigit())
    yield _gauge("frostline_champion_version", "MLflow's number of the version that serves.", ("model",), versions)
    # With zeros, so that the first of a kind is a change too.
    changes = Counter({(name, kind): 0 for name in models.champions for kind in KINDS})
    changes.update((change.model, change.kind) for change in models.changes)
    told_of = "Promotions, rollbacks, approvals, refusals."
    yield _gauge("frostline_decisions", told_of, ("model", "kind"), changes.items())
    waiting = Counter({(name,): 0 for name in models.champions})
    waiting.update((one.model,) for one in models.waiting)
    yield _gauge(
        "frostline_waiting_for_approval", "Versions that a person must decide about.", ("model",), waiting.items()
    )


def _of_prefect(told: Told) -> Iterator[GaugeMetricFamily]:
    """Nothing where PREFECT_API_URL names none."""
    if told.prefect is None and told.prefect_problem is None:
        return
    yield _plain("frostline_prefect_answers", "1 where Prefect did just now.", float(told.prefect is not None))
    if told.prefect is None:
        return
    # With zeros, so that the first crash is a change too.
    runs = Counter(
        {(flow, state): 0 for flow in {"retrain", *(one.flow for one in told.prefect.flow_runs)} for state in ENDS}
    )
    runs.update({(one.flow, one.state): one.count for one in told.prefect.flow_runs})
    yield _gauge(
        "frostline_flow_runs", "Of the newest 2,000 of our flow runs that have begun.", ("flow", "state"), runs.items()
    )
    times = (((one.recipe, one.step), one.times) for one in told.prefect.reused)
    yield _gauge("frostline_steps_reused", "Steps that ended as Cached.", ("recipe", "step"), times)
    saved = (((one.recipe, one.step), one.accelerator_seconds_saved) for one in told.prefect.reused)
    about = "What their manifests say that they took."
    yield _gauge("frostline_steps_reused_accelerator_seconds", about, ("recipe", "step"), saved)


def _gauge(
    name: str, told: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, told, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _plain(name: str, told: str, value: float) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, told, value=value)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def serve_metrics(store: Store, host: str, port: int) -> int:
    """Answer at /metrics from a thread that ends with the process; the port, which 0 leaves to the system.

    Raises ConfigError where the port is taken."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(store))
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: the metrics cannot be served there ({error.strerror}); expected a free port of this "
            "machine. Choose another with --port or --host."
        ) from error
    return int(server.server_port)


def metrics_command(store: str | None, host: str, port: int) -> None:
    from flows.opened import open_workspace
    from infra.progress import Silent

    workspace = open_workspace("laptop", Silent(), store, writable=False)
    found = serve_metrics(workspace.store, host, port)
    print(f"http://{host}:{found}/metrics", flush=True)
    threading.Event().wait()
