"""Points before, within and after every durable action of a process, at which it is killed or its disk fails.

Armed by `arm()`; at import where one of these variables is set, so in any subprocess or actor that imports this file:

FAULT_RECORD=PATH   every point that is passed, a line each: from this a matrix is made that has no gaps
FAULT_AT=POINT      such a line: where it happens
FAULT_DOES=KILL     or an errno such as ENOSPC: from there on every write to that place (store, cache, temp) fails
FAULT_ONCE=PATH     made when it happens; where it is, nothing happens: an actor's successor passes the same points

Actions are seen by wrapping what makes them; the calls to the file system within one, by Python's audit events and
profiler. Such a call outside every action is recorded as `unnamed`, so that no durable action escapes the list.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

VARIABLES = ("FAULT_RECORD", "FAULT_AT", "FAULT_DOES", "FAULT_ONCE")
CREATING = {"open": "open", "os.mkdir": "mkdir", "os.link": "link", "os.rename": "rename"}
REMOVING = {"os.remove": "remove", "os.rmdir": "rmdir"}
FILLING = ("write", "sendfile")
"""Methods and functions of C that put bytes into an open file; no audit event tells of them."""
STORE_ACTIONS = {
    "upload": {"/parts/": "upload part"},
    "create": {
        "/manifest.json": "manifest create",
        "/log/": "log append",
        "/ledger/": "ledger append",
        "/mirrored/": "mirror mark",
    },
    "write": {"/journal/": "journal note", "/checkpoints/": "checkpoint file", "/mirroring/": "mirror announce"},
    "delete": {
        "/journal/": "journal delete",
        "/checkpoints/": "checkpoints delete",
        "/mirroring/": "mirror withdraw",
    },
}
CACHE_ACTIONS = {"parts": "cache fetch", "stamps": "cache stamp", "folders": "cache link"}


class Point(NamedTuple):
    side: str
    """before, within or after."""
    action: str
    number: int
    """Of the actions of this name, from 1."""
    call: str = ""
    """Within an action: its calls to the file system, numbered."""

    def __str__(self) -> str:
        return " | ".join(map(str, self))

    @classmethod
    def parse(cls, line: str) -> Point:
        side, action, number, call = line.split(" | ")
        return cls(side, action, int(number), call)


class _Action(threading.local):
    """What this thread is about."""

    name = ""
    place = ""
    number = 0
    num_calls = 0
    deaf = False


_now = _Action()
_numbers: Counter[str] = Counter()
_lock = threading.Lock()
_failing: set[str] = set()
_record: int | None = None


def recorded(path: Path) -> list[Point]:
    return [Point.parse(line) for line in path.read_text().splitlines()]


def arm() -> None:
    """Wrap what is durable, and listen. Once in a process."""
    global _record
    import pyarrow.parquet as pq

    from infra.part_cache import PartCache
    from infra.store import LocalStore
    from infra.store.s3 import S3Store

    if path := os.environ.get("FAULT_RECORD"):
        _record = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for store in (LocalStore, S3Store):
        for method, names in STORE_ACTIONS.items():
            _wrap(store, method, "store", lambda *args, names=names, method=method: _by_key(args, names, method))
    _wrap(PartCache, "_write", "cache", lambda self, target, _: CACHE_ACTIONS.get(_folder(self, target), "cache file"))
    _wrap(pq.ParquetWriter, "__init__", "temp", lambda *_: "local temp open", by_library=True)
    _wrap(pq.ParquetWriter, "close", "temp", lambda *_: "local temp close", by_library=True)
    _wrap(tempfile, "mkdtemp", "temp", lambda *_: "local temp folder")
    _wrap(os, "fsync", "", lambda *_: "")
    sys.addaudithook(_listen)


def _by_key(arguments: tuple[Any, ...], names: dict[str, str], method: str) -> str:
    key = next(f"/{value}" for value in arguments[1:] if isinstance(value, str))
    return next((name for mark, name in names.items() if mark in key), f"{method} {key}")


def _folder(cache: Any, target: Path) -> str:
    return target.relative_to(cache.folder).parts[0] if target.is_relative_to(cache.folder) else "parts"


def _wrap(owner: Any, name: str, place: str, named: Callable[..., str], by_library: bool = False) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **more: Any) -> Any:
        if not place:
            _call(name)
            return original(*args, **more)
        if _now.name:
            return original(*args, **more)
        with _acting(named(*args), place):
            made = original(*args, **more)
            if by_library:  # its calls to the file system are not Python's
                _call("write")
        return made

    setattr(owner, name, wrapped)


@contextmanager
def _acting(name: str, place: str) -> Iterator[None]:
    with _lock:
        _numbers[name] += 1
        number = _numbers[name]
    _pass(Point("before", name, number), place)
    _now.name, _now.place, _now.number, _now.num_calls = name, place, number, 0
    sys.setprofile(_see_filling)
    try:
        yield
    finally:
        sys.setprofile(None)
        _now.name = ""
    _pass(Point("after", name, number), place)


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    call = CREATING.get(event) or (_now.name and REMOVING.get(event))
    if not call or _now.deaf:
        return
    if event == "open" and (isinstance(arguments[0], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        return  # a pipe, or read only
    path = str(arguments[0])
    if "__pycache__" not in path and not path.startswith("/dev/"):
        _call(call, path)


def _see_filling(_: Any, event: str, function: Any) -> None:
    if event == "c_call" and function.__name__ in FILLING and not _now.deaf:
        _call(function.__name__)


def _call(call: str, path: str = "") -> None:
    if _now.deaf:
        return
    if not _now.name:
        _pass(Point("within", "unnamed", 0, f"{call} {path}"), "")
        return
    _now.num_calls += 1
    removes = call in REMOVING.values()
    _pass(Point("within", _now.name, _now.number, f"{_now.num_calls} {call}"), _now.place)
    fails = os.environ.get("FAULT_DOES", "KILL")
    if _now.place in _failing and not (removes and fails == "ENOSPC"):
        number = getattr(errno, fails)
        raise OSError(number, os.strerror(number))


def _pass(point: Point, place: str) -> None:
    _now.deaf = True
    try:
        if _record is not None:
            os.write(_record, f"{point}\n".encode())
        if str(point) != os.environ.get("FAULT_AT") or not _first_time():
            return
        if os.environ.get("FAULT_DOES", "KILL") == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        _failing.add(place)
    finally:
        _now.deaf = False


def _first_time() -> bool:
    marker = os.environ.get("FAULT_ONCE")
    if marker is None:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if any(name in os.environ for name in VARIABLES):
    arm()
