"""One decode worker process, seen from its parent: started, spoken to, and found dead with a reason."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from data_prep.decode_messages import read_answers, write_images
from data_prep.decode_worker import OUT_OF_MEMORY, READY
from data_prep.reencode import Reencode
from infra.errors import PlatformError

_REASONS = {
    -signal.SIGPROF: ("too_slow", "ran out of CPU time"),
    -signal.SIGALRM: ("too_slow", "ran out of time"),
    OUT_OF_MEMORY: ("too_much_memory", "ran out of memory"),
}


_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""No credentials for a process that meets hostile bytes."""


class WorkerDied(Exception):  # noqa: N818 (what an image did)
    """Its `reason` is a class for the quarantine: too_slow, too_much_memory, decoder_died."""

    def __init__(self, reason: str, message: str, passing: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.passing = passing
        """Whether a busy machine can be at fault, so that it is worth another try another day."""


class WorkerProcess:
    """Running and ready. Raises PlatformError where it does not start."""

    def __init__(self, max_memory_bytes: int, max_seconds: float, reencode: Reencode | None) -> None:
        self._limits = f"{max_memory_bytes} bytes of memory and {max_seconds:g} s"
        arguments = [str(max_memory_bytes), str(max_seconds), *([reencode.model_dump_json()] if reencode else [])]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # threads and arenas take address space, which is limited
            "MALLOC_ARENA_MAX": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "data_prep.decode_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # an interrupt at the terminal is the parent's to answer
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._images, self._answers = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        if self._answers.read(1) != READY:
            raise PlatformError(
                f"a decode worker {_end(self.stop())} while it started; expected it to be ready. Its own words are "
                f"above; {self._limits} are its limits."
            )

    def send(self, images: Sequence[bytes]) -> None:
        """At most two messages may be unanswered: the worker holds what it was sent."""
        with suppress(BrokenPipeError):  # `receive` tells
            write_images(self._images, images)

    def receive(self) -> list[tuple[dict[str, Any], bytes]]:
        """Answers to the oldest unanswered message. Raises WorkerDied where there will be none."""
        try:
            return read_answers(self._answers)
        except EOFError:
            returncode = self.stop()
            reason, end = _REASONS.get(returncode, ("decoder_died", _end(returncode)))
            passing = returncode in (-signal.SIGALRM, -signal.SIGKILL)
            message = f"its decoder {end}; expected an answer within {self._limits}"
            raise WorkerDied(reason, message, passing) from None

    def kill(self) -> None:
        """From any thread; `receive` then tells."""
        self._process.kill()

    def stop(self) -> int:
        """Its return code, as `subprocess` counts it: that of its own end where it had one."""
        self._process.kill()
        returncode = self._process.wait()
        self._answers.close()
        with suppress(BrokenPipeError):  # it holds what could not be sent
            self._images.close()
        return returncode


def _end(returncode: int) -> str:
    return f"died of {signal.Signals(-returncode).name}" if returncode < 0 else f"ended with status {returncode}"
