"""Named crash points: SIGKILL just before or after the n-th upload, note, manifest … of a program under test.

    subprocess.run(command, env=armed(folder, "after upload 2"))

The program is not changed: `crash_site/sitecustomize.py` is found by every Python process with this environment, Ray's
actors included, and wraps the stores as they are imported. All these processes count together, and one is killed.
"""

import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

POINT, COUNTER = "CRASH_POINT", "CRASH_COUNTER"
CLASSES = {"infra.store.local": "LocalStore", "infra.store.s3": "S3Store"}
METHODS = ("upload", "write", "create", "delete")
OPERATIONS = ("upload", "note", "checkpoint", "manifest", "log", "delete")
SUPPORT = Path(__file__).resolve().parent


def armed(folder: Path, point: str) -> dict[str, str]:
    """The environment that kills at this point, such as `before manifest 1`. `folder` keeps the count."""
    when, operation, number = point.split()
    assert when in ("before", "after") and operation in OPERATIONS and int(number) > 0, point
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(SUPPORT / "crash_site"), str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), POINT: point, COUNTER: str(folder / "counter")}


def was_hit(folder: Path, point: str) -> bool:
    """Whether the program came so far."""
    counter = folder / "counter"
    return counter.exists() and counter.stat().st_size >= int(point.split()[2])


def hook() -> None:
    """Wrap the stores of this process once they are imported, where the environment arms a point."""
    if POINT in os.environ:
        sys.meta_path.insert(0, _Finder())


def operation_of(method: str, key: str) -> str | None:
    """What a call on a store means, or None where it is no crash point."""
    folders = key.split("/")
    if method in ("upload", "delete"):
        return method
    if "checkpoints" in folders:
        return "checkpoint"
    if method == "write":
        return "note" if "journal" in folders else None
    if folders[-1] == "manifest.json":
        return "manifest"
    return "log" if {"log", "ledger"} & {*folders} else None


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, _: ModuleType | None = None) -> ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in CLASSES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Wrapping(spec.loader, CLASSES[name])
        return spec


class _Wrapping(Loader):
    def __init__(self, loader: Loader, class_name: str) -> None:
        self.loader, self.class_name = loader, class_name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        store = getattr(module, self.class_name)
        for method in METHODS:
            setattr(store, method, _killing(method, getattr(store, method)))


def _killing(method: str, call: Callable[..., Any]) -> Callable[..., Any]:
    when, wanted, number = os.environ[POINT].split()

    def wrapped(store: Any, *arguments: Any) -> Any:
        is_it = operation_of(method, str(arguments[1 if method == "upload" else 0])) == wanted
        if is_it and when == "before":
            _count_and_kill(int(number))
        result = call(store, *arguments)
        if is_it and when == "after":
            _count_and_kill(int(number))
        return result

    return wrapped


def _count_and_kill(number: int) -> None:
    with open(os.environ[COUNTER], "ab", buffering=0) as counter:  # noqa: PTH123  one append is one step of the count
        counter.write(b".")
        if counter.tell() == number:
            os.kill(os.getpid(), signal.SIGKILL)
