"""What a measurement found: a value, its goal, and the runs of each side it comes from."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sides import Side

OUTCOMES = {True: "met", False: "MISSED", None: ""}


@dataclass(frozen=True)
class Runs:
    """One side: every run in the order it was made, what ran, and what makes it repeatable."""

    unit: str
    runs: list[float]
    command: list[str]
    asked: dict[str, Any]
    versions: dict[str, str]
    runs_by_cpu: list[float] = field(default_factory=list)
    """The same per second of CPU time, which hardly notices what else the machine does."""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Result:
    name: str
    value: float
    unit: str
    goal: float | None
    """None where the figure is only told."""
    higher_is_better: bool
    sides: dict[str, Runs]
    conditions: str
    """What the figure includes and what it leaves out."""

    @property
    def by_cpu(self) -> float | None:
        """The value that CPU time alone would give, where every side tells it. Waiting and idle cores are not in it."""
        medians = [statistics.median(side.runs_by_cpu) for side in self.sides.values() if side.runs_by_cpu]
        return None if len(medians) < len(self.sides) else round(medians[0] / (medians[1] if medians[1:] else 1), 3)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.higher_is_better else self.value <= self.goal


def interleaved(num_rounds: int, sides: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Run each side once a round, in turn; the order is turned round each time, so that a drift favours nobody."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(num_rounds):
        names = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in names:
            answers[name].append(sides[name]())
    return answers


def runs_of(side: Side, asked: dict[str, Any], unit: str, runs: Sequence[float]) -> Runs:
    return Runs(unit, [round(run, 4) for run in runs], side.command, asked, side.versions)


def rates(side: Side, asked: dict[str, Any], answers: Sequence[dict[str, Any]]) -> Runs:
    """Images per second of each answer, by the clock and by CPU time."""
    return per_second(side, asked, "images", answers)


def per_second(side: Side, asked: dict[str, Any], what: str, answers: Sequence[dict[str, Any]]) -> Runs:
    """The same of anything an answer counts."""
    unit = f"{what.replace('_', ' ')}/s"
    found = runs_of(side, asked, unit, [answer[what] / answer["seconds"] for answer in answers])
    found.runs_by_cpu.extend(round(answer[what] / answer["cpu_seconds"], 4) for answer in answers)
    return found


def ratio(name: str, over: tuple[str, str], sides: dict[str, Runs], goal: float | None, conditions: str) -> Result:
    """Median of the first over median of the second, higher being better."""
    value = sides[over[0]].median / sides[over[1]].median
    return Result(name, round(value, 3), f"{over[0]} / {over[1]}", goal, True, sides, conditions)


def growth(name: str, over: tuple[str, str], sides: dict[str, Runs], goal: float, conditions: str) -> Result:
    """The same, lower being better."""
    value = sides[over[0]].median / sides[over[1]].median
    return Result(name, round(value, 3), f"{over[0]} / {over[1]}", goal, False, sides, conditions)


def write(results: Sequence[Result], path: Path) -> None:
    def plain(result: Result) -> dict[str, Any]:
        found = asdict(result)
        for name, side in result.sides.items():
            found["sides"][name]["median"] = side.median
        return {**found, "value_by_cpu_time": result.by_cpu}

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([plain(result) for result in results], indent=1) + "\n")


def show(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measured", "sides (median)", "value", "by CPU time", "goal", "", box=None, pad_edge=False)
    for result in results:
        sides = "\n".join(f"{name} {side.median:,.4g} {side.unit}" for name, side in result.sides.items())
        goal = "" if result.goal is None else f"{'≥' if result.higher_is_better else '≤'} {result.goal:g}"
        by_cpu = "" if result.by_cpu is None else f"{result.by_cpu:g}"
        table.add_row(result.name, sides, f"{result.value:g}", by_cpu, goal, OUTCOMES[result.met])
    Console(width=130).print(table)
