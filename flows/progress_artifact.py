"""Progress of long steps as Prefect progress artifacts, refreshed every few seconds."""

import time
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

REFRESH_SECONDS = 3.0


class ProgressArtifact:
    """Prefect shows percentages; the unit and the live note go into the description."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner
        """A second Progress that is told the same: the terminal's bars."""
        self._lines: dict[str, dict[str, Any]] = {}

    def start(self, label: str, total: int, unit: str, done: int = 0) -> None:
        if self._inner:
            self._inner.start(label, total, unit, done)
        created = create_progress_artifact(
            0.0, key=f"frostline-{label.replace(' ', '-').replace('_', '-')}", description=f"{label}: {unit}"
        )
        assert isinstance(created, UUID)
        self._lines[label] = {"id": created, "total": total, "done": done, "unit": unit, "shown": 0.0}

    def advance(self, label: str, amount: int = 1, note: str = "") -> None:
        if self._inner:
            self._inner.advance(label, amount, note)
        line = self._lines[label]
        line["done"] += amount
        if time.monotonic() - line["shown"] >= REFRESH_SECONDS and line["total"]:
            self._show(label, note)

    def finish(self, label: str) -> None:
        if self._inner:
            self._inner.finish(label)
        line = self._lines[label]
        line["total"] = line["done"] or 1
        line["done"] = line["total"]
        self._show(label, "")
        del self._lines[label]

    def _show(self, label: str, note: str) -> None:
        line = self._lines[label]
        told = f"{label}: {line['done']} of {line['total']} {line['unit']}. {note}".strip()
        update_progress_artifact(
            line["id"], progress=min(100.0, 100.0 * line["done"] / line["total"]), description=told
        )
        line["shown"] = time.monotonic()
