"""Between the launcher and its ranks under Ray: progress and losses one way, the stop flag the other."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

POLL_SECONDS = 0.5
SILENT_SECONDS = 3.0
"""A rank beats every POLL_SECONDS; so long without one says more than a busy machine does."""
Position = tuple[int, int, str]
"""(step, number of steps, note)"""


class Relay:
    """Lives in an actor that no rank can take with it."""

    def __init__(self) -> None:
        self._position: Position | None = None
        self._stop = False
        self._failure: tuple[str, str] | None = None
        self._losses: list[str] = []
        self._heard: dict[int, float] = {}

    def exchange(self, rank: int, position: Position | None) -> bool:
        """A rank's beat, with where it is if it knows; rank 0's place is shown. It hears whether to stop."""
        self._heard[rank] = time.monotonic()
        if rank == 0:
            self._position = position or self._position
        return self._stop

    def leave(self, rank: int) -> None:
        """The rank has come to its end, good or bad, and will not be heard of again."""
        self._heard.pop(rank, None)

    def lose(self, errors: dict[int, str | None]) -> None:
        """Some ranks ended with these errors, or died (None). Who was silent meanwhile is named first: the others
        waited for it."""
        now = time.monotonic()
        since = {rank: now - at for rank, at in sorted(self._heard.items())}
        died = [rank for rank, error in errors.items() if error is None]
        silent = [rank for rank, seconds in since.items() if seconds > SILENT_SECONDS and rank not in died]
        told = [f"rank {rank} was not heard of for {since[rank]:.0f} s" for rank in silent]
        told += [f"rank {rank} died" for rank in died]
        if not told and any("timed out" in (error or "").lower() for error in errors.values()):
            told = [f"rank {rank} lives and did not join the others" for rank in since if rank not in errors]
        told += [f"rank {rank} said: {error}" for rank, error in sorted(errors.items()) if error and rank not in silent]
        self._losses.append("; ".join(told))
        self._heard.clear()

    def poll(self, stop: bool) -> tuple[Position | None, list[str]]:
        """(position, all losses so far). Once `stop` was true the ranks are told to stop."""
        self._stop = self._stop or stop
        return self._position, self._losses

    def fail(self, kind: str, message: str) -> None:
        """The first failure that starting again would not cure."""
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        return self._failure

    def losses(self) -> list[str]:
        return self._losses


class RelayLink:
    """A rank's end of the relay. A thread talks to the actor, so that no step waits for it."""

    def __init__(self, relay: Any, rank: int) -> None:
        self._relay, self._rank = relay, rank
        self._position: Position | None = None
        self._stop = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="relay", daemon=True)
        self._thread.start()

    def report(self, step: int, num_steps: int, note: str, /) -> None:
        self._position = (step, num_steps, note)

    def stopping(self) -> bool:
        return self._stop

    def close(self) -> None:
        import ray

        self._closed.set()
        self._thread.join()
        self._exchange()
        ray.get(self._relay.leave.remote(self._rank))

    def _talk(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            self._exchange()

    def _exchange(self) -> None:
        import ray

        self._stop = ray.get(self._relay.exchange.remote(self._rank, self._position))


def told_of_losses(relay: Any) -> Any:
    """Ray Train's callback that tells the relay why a group of ranks ends."""
    import ray
    from ray.train import UserCallback

    class TellLosses(UserCallback):  # type: ignore[misc]  # Ray has no types for us
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
            ray.get(relay.lose.remote({rank: _told(error) for rank, error in worker_exceptions.items()}))

    return TellLosses()


def _told(error: Exception) -> str | None:
    """The first sentence of what a rank raised; None where its process is dead."""
    if type(error).__name__ == "WorkerHealthCheckFailedError":
        return None
    return re.sub(r"\[/\S+\] ", "", last_line(error)).partition(". ")[0]  # gloo tells of a place in its source


def last_line(error: BaseException) -> str:
    """Of a message that may carry a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
