"""`frostline overview`: one HTML page that needs nothing else, of the pipeline over time."""

import time
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from flows.opened import open_workspace
from flows.overview_charts import HEIGHT, WIDTH, Chart, Series, draw, figure
from flows.storytelling import Told, tell
from infra.errors import ConfigError
from infra.progress import Silent
from training.made import OutputReader
from training.report_page import METRIC_NAMES
from training.served import Quality

KINDS = {
    "promotion": "Promoted by the gate",
    "approved": "Approved by a person",
    "promoted_by_hand": "Promoted by a person",
    "rollback": "Rolled back",
    "alias_moved_by_hand": "Alias moved in MLflow",
    "refused_by_gate": "Refused by the gate",
    "refused_by_hand": "Refused by a person",
    "awaits_approval": "Waits for approval",
}
Item = TypeVar("Item")


def overview_command(store: str | None, out: Path, as_json: bool) -> None:
    workspace = open_workspace("laptop", Silent(), store, writable=False)
    told, _ = tell(OutputReader(workspace.store))
    if as_json:
        print(told.model_dump_json(indent=2))
        return
    page = render_overview(told, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{out}: the page cannot be written ({error.strerror}); expected a file in a folder that is there. "
            "Name another with --out."
        ) from error
    Console().print(out.absolute().as_uri(), soft_wrap=True, highlight=False, markup=False)


def render_overview(told: Told, now: str) -> str:
    """The page. Nothing of a single example is on it, so `forget` has nothing to erase there."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": figure, "metric_name": _metric_name}
    template = environment.from_string(files("flows").joinpath("overview.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        told=told,
        story=told.story,
        now=now,
        kinds=KINDS,
        width=WIDTH,
        height=HEIGHT,
        growth=_growth(told),
        encodes=_sums(told, "encoded", "encodes_saved", ("Encoded", "Saved")),
        seconds=_sums(told, "accelerator_seconds", "accelerator_seconds_saved", ("Spent", "Saved")),
        speeds=_speeds(told),
        quality=[(model, metric, draw(_lines(points), False), points) for model, metric, points in _by_model(told)],
        newest={point.model: point for point in told.story.models.quality if point.serves},
        timeline=_timeline(told),
    )


def _growth(told: Told) -> Chart | None:
    groups = _grouped(told.story.growth, lambda one: one.recipe)
    return draw([Series(recipe, [(one.at, one.images) for one in group]) for recipe, group in groups.items()], True)


def _sums(told: Told, spent: str, saved: str, names: tuple[str, str]) -> Chart | None:
    moments = told.story.moments
    series = [
        Series(name, [(one.at, float(getattr(one, field))) for one in moments])
        for name, field in zip(names, (spent, saved), strict=True)
    ]
    return draw(series, True)


def _speeds(told: Told) -> Chart | None:
    groups = _grouped(told.story.speeds, lambda one: one.recipe)
    lines = [Series(recipe, [(one.at, one.images_per_second) for one in group]) for recipe, group in groups.items()]
    return draw(lines, True)


def _by_model(told: Told) -> list[tuple[str, str, list[Quality]]]:
    groups = _grouped(told.story.models.quality, lambda one: one.model)
    return [(model, points[0].metric, points) for model, points in groups.items()]


def _lines(points: Sequence[Quality]) -> list[Series]:
    """One line for each version."""
    return [
        Series(
            f"version {version}",
            [(one.evaluated_at, one.score) for one in group],
            [None if one.low is None or one.high is None else (one.low, one.high) for one in group],
        )
        for version, group in _grouped(points, lambda one: one.version).items()
    ]


def _timeline(told: Told) -> Chart | None:
    """A row for each kind of decision."""
    changes = [change for change in told.story.models.changes if change.at]
    present = [kind for kind in KINDS if any(change.kind == kind for change in changes)]
    rows = {kind: float(len(present) - at) for at, kind in enumerate(present)}
    lines = [
        Series(KINDS[kind], [(change.at, rows[kind]) for change in changes if change.kind == kind]) for kind in present
    ]
    return draw(lines, True)


def _grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _metric_name(key: str) -> str:
    return METRIC_NAMES.get(key, key)
