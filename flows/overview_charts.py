"""Charts of `frostline overview` as SVG geometry: lines over time, and points with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 640.0, 180.0
MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """Values over time, one line; `band` holds the ends of each value's interval where it has one."""

    name: str
    points: Sequence[tuple[str, float]]
    """(time as 2026-03-01T06:00:00Z, value), oldest first."""
    band: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class Line:
    name: str
    path: str
    dots: list[tuple[float, float, str]]
    """(x, y, what it says)."""
    whiskers: list[tuple[float, float, float]]
    """(x, y of the high end, y of the low end)."""


@dataclass(frozen=True)
class Chart:
    lines: list[Line]
    ticks: list[tuple[float, str]]
    """(y, value) of the grid lines."""
    first: str
    last: str
    """The ends: days, or minutes of one day."""
    told: str
    """The same in words, for those who do not see it."""


def draw(series: Sequence[Series], from_zero: bool) -> Chart | None:
    """None where there is nothing to draw."""
    series = [_thinned(one) for one in series if one.points]
    if not series:
        return None
    times = [_seconds(at) for one in series for at, _ in one.points]
    values = [value for one in series for _, value in one.points]
    values += [end for one in series for ends in one.band if ends is not None for end in ends]
    start, run = min(times), (max(times) - min(times)) or 1.0
    lowest = 0.0 if from_zero else min(values)
    highest = max(values)
    span = (highest - lowest) or 1.0

    def x(at: str) -> float:
        return round(WIDTH * (_seconds(at) - start) / run, 1) if len(set(times)) > 1 else WIDTH / 2

    def y(value: float) -> float:
        return round(HEIGHT * (1 - (value - lowest) / span), 1)

    lines = []
    for one in series:
        dots = [(x(at), y(value), f"{one.name}, {at[:10]}: {figure(value)}") for at, value in one.points]
        path = " ".join(f"{'L' if at else 'M'}{dot[0]} {dot[1]}" for at, dot in enumerate(dots))
        ends = [(x(at), y(band[1]), y(band[0])) for (at, _), band in zip(one.points, one.band, strict=False) if band]
        lines.append(Line(one.name, path, dots, ends))
    ticks = [(HEIGHT * part / 4, figure(highest - span * part / 4)) for part in range(5)]
    first, last = _ends(at for one in series for at, _ in one.points)
    told = "; ".join(f"{one.name}: {figure(one.points[0][1])}, last {figure(one.points[-1][1])}" for one in series)
    return Chart(lines, ticks, first, last, f"From {first} to {last}. {told}.")


def _ends(times: Iterable[str]) -> tuple[str, str]:
    ordered = sorted(times)
    first, last = ordered[0], ordered[-1]
    to = len("2026-03-01") if first[:10] != last[:10] else len("2026-03-01T06:00")
    return first[:to].replace("T", " "), last[:to].replace("T", " ")


def _thinned(one: Series) -> Series:
    """At most about `MAX_POINTS`, the last among them. Those with intervals are few."""
    stride = -(-len(one.points) // MAX_POINTS)
    return one if stride == 1 else Series(one.name, [*one.points[:-1:stride], one.points[-1]])


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def figure(value: float) -> str:
    """Whole numbers and large ones with thin spaces, others to three places."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.3g}"
