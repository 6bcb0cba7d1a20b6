"""Processes that outlive the command that started them, found again by a mark in their environment.

A file of process ids would name somebody else's processes after a restart of the machine; a mark cannot.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "FROSTLINE_STACK"
PART = "FROSTLINE_STACK_PART"
FIRST = "FROSTLINE_STACK_FIRST"
"""The id of the process that was started: descendants inherit the variable, and have other ids."""


@dataclass(frozen=True)
class Marked:
    """A process of a stack, as it was when it was looked at."""

    process: psutil.Process
    parent: int
    part: str
    is_first: bool
    """Whether `start` started it; the others of its part are its descendants."""
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Mark:
    """What tells processes of one stack from those of others."""

    value: str

    def start(
        self, part: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> psutil.Process:
        """Start the command in a session of its own, so that Ctrl-C at the terminal does not reach it."""
        import psutil

        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            started = subprocess.Popen(
                ["/bin/sh", "-c", f'{FIRST}=$$ exec "$0" "$@"', *command],
                cwd=folder,
                env={**environment, MARK: self.value, PART: part},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return psutil.Process(started.pid)

    def first_of(self, part: str) -> Marked | None:
        """The process that `start` started as this part, if it is alive."""
        return next((one for one in self.marked() if one.part == part and one.is_first), None)

    def marked(self) -> list[Marked]:
        """Our user's processes with the mark."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # gone, or somebody else's
                told = process.environ()
                if told.get(MARK) == self.value and process.status() != psutil.STATUS_ZOMBIE:
                    is_first = told.get(FIRST) == str(process.pid)
                    found.append(Marked(process, process.ppid(), told.get(PART, ""), is_first, told))
        return found

    def processes(self) -> list[psutil.Process]:
        """All that are alive, descendants that overwrote their environment with a title included."""
        import psutil

        found: dict[int, psutil.Process] = {}
        for one in self.marked():
            found[one.process.pid] = one.process
            with suppress(psutil.Error):
                found |= {child.pid: child for child in one.process.children(recursive=True)}
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return [process for pid, process in found.items() if pid not in ours]


def stop(processes: Sequence[psutil.Process], grace_seconds: float) -> list[psutil.Process]:
    """SIGTERM, and SIGKILL for those that stay for longer than the grace period: these are returned."""
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stayed = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in stayed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stayed, timeout=grace_seconds)
    return list(stayed)
