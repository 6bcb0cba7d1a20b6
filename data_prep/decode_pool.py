"""Decoding in worker processes with limits, so that the worst file costs one row and not the step.

Images travel in batches. Each worker process is fed by a thread, which sends the next batch before it awaits the
answers to the last one, so that neither waits for the other or for a busy consumer. A batch whose worker died is done
again image by image in a fresh one: an image that ends its worker alone is at fault, exactly, and a worker that was
killed from outside costs nothing.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from data_prep.decode_process import WorkerDied, WorkerProcess
from data_prep.images import ImageError, ImageFacts, check_num_bytes
from data_prep.reencode import Reencode
from data_prep.sources.base import RowFault
from infra.errors import PlatformError

Item = TypeVar("Item")

BATCH_ITEMS, BATCH_BYTES = 128, 2**20
WINDOW_BYTES = 64 * 2**20
"""How far reading runs ahead of the consumer at most: some tenths of a second, in which it can write a shard."""


@dataclass(frozen=True)
class Inspected:
    facts: ImageFacts
    """Of `stored` where there are such bytes, else of the source's."""
    stored: bytes | None
    """The re-encoded image, or None where the source's bytes are kept."""


Outcome = Inspected | RowFault


class DecodePool:
    """`num_processes` workers, started with the first image and stopped on exit, whatever happens in between.

    max_memory_bytes: address space of a worker, of which Python and the libraries take 150 MB. max_seconds: of CPU time
    for one image. An image above either, or one that kills its worker, is a RowFault.
    """

    def __init__(
        self,
        num_processes: int,
        max_memory_bytes: int,
        max_seconds: float,
        reencode: Reencode | None = None,
        window_items: int = 4096,
    ) -> None:
        self._window_items = window_items
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lanes = [
            _Lane(partial(WorkerProcess, max_memory_bytes, max_seconds, reencode), self._tasks)
            for _ in range(num_processes)
        ]

    def __enter__(self) -> Self:
        for lane in self._lanes:
            lane.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.stop()
        for _ in self._lanes:
            self._tasks.put(None)
        for lane in self._lanes:
            lane.join()
        while not self._tasks.empty():
            if left := self._tasks.get():
                left.outcomes.cancel()

    def worker_pids(self) -> list[int]:
        return [lane.worker.pid for lane in self._lanes if lane.worker is not None]

    def inspect(self, items: Iterable[tuple[Item, bytes | None]]) -> Iterator[tuple[Item, Outcome | None]]:
        """What is in each image, in the order of the items; None where an item has no bytes.

        Reads ahead by up to `window_items` items or WINDOW_BYTES, and a batch. Raises PlatformError where workers do
        not start."""
        window: deque[_Batch[Item]] = deque()
        batch = _Batch[Item]()
        for item, data in items:
            batch.add(item, data)
            if len(batch.items) < min(BATCH_ITEMS, self._window_items) and batch.num_bytes < BATCH_BYTES:
                continue
            window.append(self._submit(batch))
            batch = _Batch()
            while (
                sum(len(waiting.items) for waiting in window) > self._window_items
                or sum(waiting.num_bytes for waiting in window) > WINDOW_BYTES
            ):
                yield from window.popleft().outcomes()
        window.append(self._submit(batch))
        while window:
            yield from window.popleft().outcomes()

    def _submit(self, batch: _Batch[Item]) -> _Batch[Item]:
        assert all(lane.is_alive() for lane in self._lanes), "a decode pool was used outside its `with` block"
        if batch.task.images:
            self._tasks.put(batch.task)
        return batch


class _Task:
    """Images of one message, and the promise of an outcome for each."""

    def __init__(self) -> None:
        self.images: list[bytes] = []
        self.outcomes: Future[list[Outcome]] = Future()


class _Batch(Generic[Item]):
    def __init__(self) -> None:
        self.items: list[tuple[Item, RowFault | bool]] = []
        """With a fault that is known without decoding, or whether an image was sent."""
        self.num_bytes = 0
        self.task = _Task()

    def add(self, item: Item, data: bytes | None) -> None:
        if data is None:
            self.items.append((item, False))
            return
        try:
            check_num_bytes(data)
        except ImageError as error:
            self.items.append((item, RowFault(error.reason, str(error))))
            return
        self.items.append((item, True))
        self.num_bytes += len(data)
        self.task.images.append(data)

    def outcomes(self) -> Iterator[tuple[Item, Outcome | None]]:
        decoded = iter(self.task.outcomes.result() if self.task.images else ())
        for item, known in self.items:
            yield item, known if isinstance(known, RowFault) else next(decoded) if known else None


class _Lane(threading.Thread):
    """One worker process at a time and the thread that feeds it."""

    def __init__(self, start_worker: Callable[[], WorkerProcess], tasks: queue.SimpleQueue[_Task | None]) -> None:
        super().__init__(name="decode-lane", daemon=True)
        self.worker: WorkerProcess | None = None
        self._start_worker = start_worker
        self._tasks = tasks
        self._changing = threading.Lock()
        self._stopped = False

    def run(self) -> None:
        sent: _Task | None = None
        while (following := self._take(wait=sent is None)) or sent:
            try:
                if following:
                    self._running().send(following.images)
                if sent:
                    sent.outcomes.set_result(self._finish(sent, following))
            except BaseException as error:  # the consumer's to handle, wherever it came from
                for task in filter(None, (sent, following)):
                    if not task.outcomes.done():
                        task.outcomes.set_exception(error)
                following = None
            sent = following
        if self.worker is not None:
            self.worker.stop()

    def stop(self) -> None:
        """Let no other worker start, and kill this one: the thread sees it die and ends."""
        with self._changing:
            self._stopped = True
            if self.worker is not None:
                self.worker.kill()

    def _take(self, wait: bool) -> _Task | None:
        """The next task; None where there is none now, or, having waited, where there will be none."""
        if self._stopped:
            return None
        try:
            return self._tasks.get(block=wait)
        except queue.Empty:
            return None

    def _finish(self, task: _Task, following: _Task | None) -> list[Outcome]:
        """Outcomes of a task that was sent, as the one after it may have been."""
        try:
            return self._answers()
        except WorkerDied:
            outcomes = [self._alone(image) for image in task.images]
            if following:
                self._running().send(following.images)
            return outcomes

    def _alone(self, image: bytes) -> Outcome:
        self._running().send([image])
        try:
            return self._answers()[0]
        except WorkerDied as death:
            return RowFault(
                death.reason, f"an image of {len(image)} bytes: {death}. Repair or remove it.", death.passing
            )

    def _answers(self) -> list[Outcome]:
        try:
            return [_outcome(answer, blob) for answer, blob in self._running().receive()]
        except WorkerDied:
            self.worker = None
            raise

    def _running(self) -> WorkerProcess:
        with self._changing:
            if self._stopped:
                raise PlatformError("a decode pool was left while it worked; expected its outcomes to be read first.")
            self.worker = self.worker or self._start_worker()
            return self.worker


def _outcome(answer: dict[str, Any], stored: bytes) -> Outcome:
    if "reason" in answer:
        return RowFault(answer["reason"], answer["message"])
    return Inspected(ImageFacts(**answer), stored or None)
