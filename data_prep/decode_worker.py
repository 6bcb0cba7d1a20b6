"""The process in which bytes from outside meet the decoders. `decode_pool` starts it and does what it leaves undone:

python -m data_prep.decode_worker MAX_MEMORY_BYTES MAX_SECONDS [REENCODE_JSON]

It reads nothing but its messages and ends with the pipe they come from, so also when its parent is killed. An image
that takes too much time or memory ends it: decoders written in C cannot be stopped otherwise.
"""

import os
import queue
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import IO, Any

from data_prep.decode_messages import read_images, write_answers
from data_prep.images import MAX_BYTES, ImageError, inspect

READY = b"+"
OUT_OF_MEMORY = 82
"""Exit status."""
WALL_CLOCK_FACTOR = 4
"""An image may take this many times MAX_SECONDS by the clock; the limit itself counts CPU time, so that a busy machine
changes no result."""


def main() -> None:
    max_memory_bytes, max_seconds = int(sys.argv[1]), float(sys.argv[2])
    _import_decoders()
    warnings.simplefilter("ignore")
    shrink = _shrinker(sys.argv[3:])
    inbox: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, inbox), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    bytearray(MAX_BYTES)  # a limit without room for the largest image is told now
    answers = os.fdopen(os.dup(1), "wb")
    answers.write(READY)
    answers.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)  # libtiff and others write about each bad file
    try:
        while True:
            found = [_look(data, max_seconds, shrink) for data in inbox.get()]
            _limit_seconds(0)
            write_answers(answers, [answer for answer, _ in found], [blob for _, blob in found])
    except MemoryError:  # libraries need not have survived it either
        os._exit(OUT_OF_MEMORY)


def _import_decoders() -> None:
    """Now, since memory is limited later and a first image must not pay for it in time."""
    import imagehash
    from PIL import Image, ImageCms, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    Image.preinit()
    imagehash.phash(Image.new("L", (32, 32)))  # imports scipy when it is first called


def _receive(pipe: IO[bytes], inbox: "queue.SimpleQueue[list[bytes]]") -> None:
    """Keep reading while an image is decoded, so that the parent never waits to send."""
    status = 0
    try:
        while True:
            inbox.put(read_images(pipe))
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


def _shrinker(arguments: list[str]) -> Callable[[bytes], bytes | None]:
    if not arguments:
        return lambda _: None
    from data_prep.reencode import Reencode, reencode

    config = Reencode.model_validate_json(arguments[0])
    return lambda data: reencode(data, config)


def _look(data: bytes, max_seconds: float, shrink: Callable[[bytes], bytes | None]) -> tuple[dict[str, Any], bytes]:
    """(facts, smaller bytes or none at all) or (reason and message, none at all)."""
    _limit_seconds(max_seconds)
    try:
        smaller = shrink(data)
        return vars(inspect(smaller or data)), smaller or b""
    except ImageError as error:
        return {"reason": error.reason, "message": str(error)}, b""


def _limit_seconds(seconds: float) -> None:
    """From now on, until the next call. The signals end the process; 0 is no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_CLOCK_FACTOR * seconds)


if __name__ == "__main__":
    main()
