"""Local files: what a full, read-only or broken disk means for the person who started Frostline."""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import ConfigError, FrostlineError, PlatformError

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT)
"""Faults that space, repair or time can cure, unlike missing permissions."""
SCRATCH = "frostline-scratch-"
LOCKED_WITHIN_SECONDS = 60
"""Of its making: a scratch folder that is older and unlocked belongs to nobody."""


def not_writable(place: str, error: OSError, setting: str) -> FrostlineError:
    """The one error for a write that the operating system refused. `setting` names another place."""
    told = error.strerror or str(error)
    if error.errno in PASSING:
        return PlatformError(
            f"{place}: cannot write ({told}); expected free space on a working disk. "
            f"Make room or pass another place with {setting}, then start again: finished work is kept."
        )
    return ConfigError(
        f"{place}: cannot write ({told}); expected a writable folder. "
        f"Fix the folder's permissions or pass another place with {setting}."
    )


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A local folder for files on their way into the store, removed at the end whatever happens; those that killed
    processes left are removed at the start."""
    place = "temporary files"
    try:
        place = tempfile.gettempdir()
        sweep_scratch_folders(Path(place))
        made = tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{purpose}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise not_writable(place, error, "TMPDIR") from error
    with made as folder, _opened(Path(folder)) as descriptor:
        with suppress(OSError):  # a file system without locks: there is no sweeping either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(folder)


def sweep_scratch_folders(place: Path) -> None:
    """Remove scratch folders whose process was killed: its lock died with it."""
    for left in place.glob(f"{SCRATCH}*"):
        with suppress(OSError):  # in use, somebody else's, or swept by another process
            if time.time() - left.stat().st_mtime > LOCKED_WITHIN_SECONDS:
                with _opened(left) as descriptor:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Writes of libraries to files in a scratch folder: what the operating system refuses becomes the one error."""
    try:
        yield
    except OSError as error:
        raise not_writable(str(folder), error, "TMPDIR") from error


def sync_folder(folder: Path) -> None:
    """Make the folder's newest names last: a power cut must not keep a manifest and lose its parts."""
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
