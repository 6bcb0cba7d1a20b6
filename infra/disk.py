"""Local files: what a full, read-only or broken disk means for the person who started Frostline."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import ConfigError, FrostlineError, PlatformError

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT)
"""Faults that space, repair or time can cure, unlike missing permissions."""


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
    """A local folder for files on their way into the store, removed at the end whatever happens."""
    place = "temporary files"
    try:
        place = tempfile.gettempdir()
        made = tempfile.TemporaryDirectory(prefix=f"frostline-{purpose}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise not_writable(place, error, "TMPDIR") from error
    with made as folder:
        yield Path(folder)


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Writes of libraries to files in a scratch folder: what the operating system refuses becomes the one error."""
    try:
        yield
    except OSError as error:
        raise not_writable(str(folder), error, "TMPDIR") from error


def sync_folder(folder: Path) -> None:
    """Make the folder's newest names last: a power cut must not keep a manifest and lose its parts."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
