"""Curves of a training: what a checkpoint carries, what the tracker gets, what the report draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_POINTS = 500
"""Per curve: enough for a plot, little enough for every checkpoint to carry."""
Point = tuple[str, int, float]


@dataclass
class History:
    """Points by curve; step values are averaged over `every` steps."""

    every: int
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """{name: [[step, value], ...]}"""
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Steps in each sum: one that was left out has a duration and no loss."""

    @classmethod
    def for_steps(cls, num_steps: int) -> History:
        return cls(every=max(1, num_steps // MAX_POINTS))

    @classmethod
    def from_state(cls, state: Mapping[str, object]) -> History:
        return cls(**state)  # type: ignore[arg-type]  # written by `state`

    def state(self) -> dict[str, object]:
        return {"every": self.every, "curves": self.curves, "sums": self.sums, "counts": self.counts}

    def add_step(self, step: int, values: Mapping[str, float]) -> None:
        """Values of step `step` (counted from 1)."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        if step % self.every == 0:
            for name, total in self.sums.items():
                self.add_point(name, step, total / self.counts[name])
            self.sums, self.counts = {}, {}

    def add_point(self, name: str, step: int, value: float) -> None:
        self.curves.setdefault(name, []).append([step, value])

    def points_after(self, step: int) -> list[Point]:
        """Points of steps later than `step`, in order of steps."""
        found = [(name, int(at), value) for name, curve in self.curves.items() for at, value in curve if at > step]
        return sorted(found, key=lambda point: (point[1], point[0]))
