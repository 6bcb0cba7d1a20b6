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
    """One background thread with at most one checkpoint in it, so that memory is bounded."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def save(
        self,
        step: int,
        tensors: Mapping[str, dict[str, Tensor]],
        state: Mapping[str, Any],
        protected: Collection[int] = (),
    ) -> None:
        """As CheckpointFolder.save, begun and not awaited. Waits for the save before it and raises what that raised.

        The tensors are the writer's from now on: nobody may change them. `state` and `protected` are copied."""
        self.wait()
        told = copy.deepcopy(dict(state))  # the loop goes on adding to its curves
        self._under_way = self._thread.submit(self.folder.save, step, tensors, told, frozenset(protected))

    def wait(self) -> None:
        """Until nothing is under way. Raises what the save raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """End the thread, after what is under way. Raises nothing: who ends without `wait` has an error of its own."""
        self._thread.shutdown()
