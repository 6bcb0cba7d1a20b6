"""Global steps that are left out because their loss or gradient is not a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import distributed

from infra.errors import DataError

MAX_TOLD = 10
"""Messages are part of every checkpoint."""
MAX_IDS = 64


@dataclass
class Skipped:
    """How many so far; part of every checkpoint."""

    num: int = 0
    num_in_a_row: int = 0

    def count(self, step: int, own_ids: Sequence[str], bound: int) -> list[str]:
        """Messages about one more, global step `step`, counted from 1. `own_ids` are this rank's examples at fault.

        Raises DataError where it is more than `bound` in a row. Every rank has to call it."""
        self.num, self.num_in_a_row = self.num + 1, self.num_in_a_row + 1
        found: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(found, list(own_ids))
        ids = sorted({example for part in found for example in part})
        told = (
            f"global step {step}: the loss or its gradient is not finite; expected numbers. The micro batches at fault "
            f"hold the examples {', '.join(ids[:MAX_IDS])}{' …' if len(ids) > MAX_IDS else ''}"
        )
        if self.num_in_a_row > bound:
            raise DataError(f"{told}. Look at their features and targets, or lower training.learning_rate.")
        if self.num > MAX_TOLD:
            return []
        more = "; more of them will not be told" if self.num == MAX_TOLD else ""
        return [f"{told}; the step was left out{more}"]
