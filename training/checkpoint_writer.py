"""Checkpoints written and committed beside the training, one at a time."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from training.checkpoints import CheckpointFolder

if TYPE_CHECKING:
    from torch import Tensor


class CheckpointWriter:
    """One background thread, at most one checkpoint in it: memory is bounded by two copies of what is trained."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def save(
        self,
        step: int,
        tensors: Mapping[str, dict[str, Tensor]],
        state: Mapping[str, Any],
        protected: Collection[int] = (),
    ) -> None:
        """Returns at once when the checkpoint before is committed. Nobody may change the tensors any more.

        Raises what writing that earlier one raised. Steps in `protected` are kept besides the newest."""
        self.wait()
        # The loop goes on adding to its curves.
        self._written = self._pool.submit(self.folder.save, step, tensors, copy.deepcopy(state), protected)

    def wait(self) -> None:
        """Until everything is committed. Raises what writing raised."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """End the thread, after what it is writing."""
        self._pool.shutdown(wait=True)
