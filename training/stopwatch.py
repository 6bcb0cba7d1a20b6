"""Where the seconds of a global step go. On a GPU by events, so that measuring does not make the GPU wait."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds by name between one `mark` and the next, of one global step at a time."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """What ran since the last mark was `name`."""
        self._marks.append((name, self._now()))

    def seconds(self) -> dict[str, float]:
        """Since the last call, by name. The last mark is where the next step begins."""
        if self._on_gpu:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            found[name] = found.get(name, 0.0) + _between(before, after)
        self._marks = self._marks[-1:]
        return found

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return event


def _between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    assert isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event)
    return float(before.elapsed_time(after)) / 1e3
