"""When global steps end, and what is counted of them: the steady ones, after a few for the allocator and the caches."""

import time
from typing import Any


class Marks:
    """The clock and this process's CPU time at the end of each global step."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self._marks.append((time.perf_counter(), time.process_time()))

    def steady(self, targets_by_step: list[int], warm_up_steps: int) -> dict[str, Any]:
        """Target tokens of all steps after the warm-up, and their time. One mark per step."""
        assert len(self._marks) == len(targets_by_step), f"{len(self._marks)} of {len(targets_by_step)} steps"
        first, last = self._marks[warm_up_steps - 1], self._marks[-1]
        return {
            "target_tokens": sum(targets_by_step[warm_up_steps:]),
            "seconds": last[0] - first[0],
            "cpu_seconds": last[1] - first[1],
            "num_steps": len(targets_by_step) - warm_up_steps,
        }
