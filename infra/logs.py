"""Engines talk a lot. Their talk goes to one file, so that the terminal keeps to what a person needs."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def new_log_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


@contextmanager
def engines_to(path: Path, for_good: bool = False) -> Iterator[tuple[TextIO, TextIO]]:
    """Send everything written to the process's standard output and error to `path`, C libraries and children included.

    Gives (output, error): streams that still reach the person. With `for_good` nothing is turned back at the end, for
    a process that ends then: engines go on talking until it does."""
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.fdopen(os.dup(1), "w", buffering=1)
    error = os.fdopen(os.dup(2), "w", buffering=1)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        yield output, error
    finally:
        logging.getLogger().removeHandler(handler)
        logging.disable(logging.WARNING)  # engines say goodbye when the process ends
        sys.stdout.flush()
        sys.stderr.flush()
        if not for_good:
            os.dup2(output.fileno(), 1)
            os.dup2(error.fileno(), 2)
