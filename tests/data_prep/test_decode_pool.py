"""The pool's promise: every image has its outcome, in order, and the worst file costs itself alone."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import decode_pool
from data_prep.decode_pool import DecodePool, Inspected
from data_prep.images import MAX_BYTES, inspect
from data_prep.reencode import Reencode, reencode
from data_prep.sources.base import RowFault
from infra.errors import PlatformError

GIB = 2**30

HOSTILE = """
import os, pathlib, signal, time
from PIL import ImageFile

WIDTH = 99
load = ImageFile.ImageFile.load

def kill_once():
    marker = pathlib.Path(__file__).with_name("killed")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

def spin():
    while True:
        pass

DEEDS = [
    lambda: os.kill(os.getpid(), signal.SIGKILL),
    lambda: os.kill(os.getpid(), signal.SIGSEGV),
    lambda: os._exit(3),
    lambda: time.sleep(1000),
    spin,
    lambda: bytearray(2**40),
    kill_once,
]

def hostile(self):
    if self.width == WIDTH:
        DEEDS[self.height - 1]()
    return load(self)

ImageFile.ImageFile.load = hostile
"""
"""A sitecustomize module: what a decoder with a hole in it would do, in the worker process."""
KILLED, SEGFAULT, EXITED, ASLEEP, SPINNING, GREEDY, KILLED_ONCE = range(1, 8)


def encoded(image: Image.Image, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format)
    return buffer.getvalue()


def hostile(deed: int) -> bytes:
    return encoded(Image.new("L", (99, deed)))


@pytest.fixture
def hostile_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(2, GIB, 5) as pool:
        yield pool


def test_outcomes_come_in_order_and_equal_those_of_this_process(
    pool: DecodePool, make_picture: Callable[[int], bytes]
) -> None:
    pictures = [make_picture(number) for number in range(300)]
    items = [(number, None if number % 7 == 0 else picture) for number, picture in enumerate(pictures)]
    items[100] = (100, b"no image")
    items[101] = (101, pictures[101][:-40])
    found = list(pool.inspect(iter(items)))
    assert [item for item, _ in found] == list(range(300))
    faults = {item: outcome.reason for item, outcome in found if isinstance(outcome, RowFault)}
    assert faults == {100: "format_not_allowed", 101: "truncated"}
    for item, outcome in found:
        if item % 7 == 0:
            assert outcome is None
        elif item not in faults:
            assert outcome == Inspected(inspect(pictures[item]), None)


def test_nothing_to_inspect_gives_nothing_and_starts_nothing() -> None:
    with DecodePool(2, GIB, 5) as pool:
        assert list(pool.inspect([])) == []
        assert list(pool.inspect([("a", None)])) == [("a", None)]
        assert pool.worker_pids() == []


def test_too_many_bytes_are_not_even_sent(pool: DecodePool) -> None:
    ((_, outcome),) = pool.inspect([("large", bytes(MAX_BYTES + 1))])
    assert isinstance(outcome, RowFault)
    assert outcome.reason == "too_many_bytes"


@pytest.mark.slow
def test_each_hostile_image_costs_exactly_itself(hostile_decoders: None, make_picture: Callable[[int], bytes]) -> None:
    """Shown by answering for a whole batch with the fault of its dead worker: the neighbours failed too."""
    expected = {
        3: (KILLED, "decoder_died"),
        4: (SEGFAULT, "decoder_died"),
        30: (EXITED, "decoder_died"),
        31: (ASLEEP, "too_slow"),
        50: (SPINNING, "too_slow"),
        59: (GREEDY, "too_much_memory"),
    }
    items = [(n, hostile(expected[n][0]) if n in expected else make_picture(n)) for n in range(60)]
    with DecodePool(2, GIB, 0.3) as pool:
        found = list(pool.inspect(items))
    assert [item for item, _ in found] == list(range(60))
    faults = {item: outcome.reason for item, outcome in found if isinstance(outcome, RowFault)}
    assert faults == {item: reason for item, (_, reason) in expected.items()}
    assert "SIGSEGV" in str(found[4][1])


def test_a_worker_killed_from_outside_costs_nothing(
    hostile_decoders: None, make_picture: Callable[[int], bytes]
) -> None:
    """Once in the middle of an image, and once whatever it is at. Shown by taking the first death for the image's."""
    with DecodePool(1, GIB, 5) as pool:

        def items() -> Iterator[tuple[int, bytes]]:
            for number in range(600):
                if number == 450:
                    for pid in pool.worker_pids():
                        os.kill(pid, signal.SIGKILL)
                yield number, hostile(KILLED_ONCE) if number == 200 else make_picture(number)

        found = list(pool.inspect(items()))
    assert [item for item, outcome in found if isinstance(outcome, Inspected)] == list(range(600))


@pytest.mark.slow
def test_a_large_image_meets_the_limits_without_any_hook() -> None:
    """36 million pixels in less than 200 kB: too much memory, or too slow, or fine, by the limits alone."""
    bomb = encoded(Image.new("RGB", (6000, 6000)))
    outcomes = []
    for max_memory_bytes, max_seconds in ((300 * 2**20, 5), (GIB, 0.02), (GIB, 5)):
        with DecodePool(1, max_memory_bytes, max_seconds) as pool:
            outcomes += [outcome for _, outcome in pool.inspect([(0, bomb)])]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, RowFault)]
    assert reasons == ["too_much_memory", "too_slow"]
    assert isinstance(outcomes[2], Inspected)


def test_reading_runs_ahead_by_no_more_than_the_window(pool: DecodePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes where images are large, in items where there are none."""
    monkeypatch.setattr(decode_pool, "WINDOW_BYTES", 2 * 2**20)
    monkeypatch.setattr(pool, "_window_items", 500)
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)))
    for data, most in ((noise, (2 + 1) * 2**20 // len(noise) + 2), (None, 500 + 128)):
        read = most_ahead = 0

        def items(data: bytes | None = data) -> Iterator[tuple[int, bytes | None]]:
            nonlocal read
            for number in range(2000 if data is None else 60):
                read += 1
                yield number, data

        for item, _ in pool.inspect(items()):
            most_ahead = max(most_ahead, read - item)
        assert 2 < most_ahead <= most


def test_large_images_are_stored_smaller_and_small_ones_as_they_are(make_picture: Callable[[int], bytes]) -> None:
    config = Reencode(max_side_px=100, quality=80)
    small, large = make_picture(1), encoded(Image.linear_gradient("L").resize((300, 200)), "JPEG")
    with DecodePool(1, GIB, 5, config) as pool:
        (_, first), (_, second) = pool.inspect([(0, small), (1, large)])
    assert first == Inspected(inspect(small), None)
    stored = reencode(large, config)
    assert stored is not None
    assert second == Inspected(inspect(stored), stored)


def test_workers_inherit_no_credentials(make_picture: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """They meet hostile bytes. Shown to fail by handing the whole environment on."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    with DecodePool(1, GIB, 5) as pool:
        list(pool.inspect([(0, make_picture(1))]))
        (pid,) = pool.worker_pids()
        assert b"a secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_workers_end_with_the_pool_however_it_is_left(make_picture: Callable[[int], bytes]) -> None:
    pids: list[int] = []
    with pytest.raises(KeyError), DecodePool(2, GIB, 5) as pool:
        for item, _ in pool.inspect((n, make_picture(n % 10)) for n in range(20_000)):
            pids = pool.worker_pids()
            if item == 10:
                raise KeyError
    assert pids
    assert not any(is_running(pid) for pid in pids)


def test_outcomes_asked_for_after_the_pool_was_left_are_an_error_and_no_endless_wait(
    make_picture: Callable[[int], bytes],
) -> None:
    with DecodePool(1, GIB, 5) as pool:
        outcomes = pool.inspect((n, make_picture(n % 10)) for n in range(6000))
        next(outcomes)
    with pytest.raises((PlatformError, CancelledError, AssertionError)):
        list(outcomes)
    with pytest.raises(AssertionError, match="with"):
        list(pool.inspect([(0, make_picture(0))]))


def test_workers_that_cannot_start_are_an_error_and_no_fault_of_the_images(
    make_picture: Callable[[int], bytes],
) -> None:
    with DecodePool(2, 2**20, 5) as pool, pytest.raises(PlatformError, match="1048576 bytes of memory"):
        list(pool.inspect([(0, make_picture(0))]))


PARENT = """
import io, os, signal, sys, time
from PIL import Image
from data_prep.decode_pool import DecodePool

if __name__ == "__main__":
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    interrupted = []
    signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    with DecodePool(2, 2**30, 5) as pool:
        for wanted in (0, 1):
            while len(interrupted) < wanted:
                time.sleep(0.01)
            list(pool.inspect((n, buffer.getvalue()) for n in range(1000)))
            print(*sorted(pool.worker_pids()), flush=True)
        signal.pause()
"""


@pytest.mark.slow
def test_workers_outlive_an_interrupt_at_the_terminal_and_die_with_a_killed_parent(tmp_path: Path) -> None:
    """Shown by starting workers in the parent's session, and by a worker that goes on after the end of its input."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert parent.stdout is not None
    try:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        os.killpg(parent.pid, signal.SIGINT)
        assert [int(pid) for pid in parent.stdout.readline().split()] == pids
        assert all(is_running(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    while any(is_running(pid) for pid in pids):  # the suite's time limit is the only one
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Not ended, and no zombie that waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
