"""Processes are found again by their mark, and end when they are told to."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.marked_processes import Mark, stop

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
CHILD = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {CHILD!r}]); time.sleep(60)"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Mark]:
    made = Mark(str(tmp_path))
    yield made
    stop(made.processes(), 0)


def start(mark: Mark, tmp_path: Path, program: str, part: str = "server") -> psutil.Process:
    return mark.start(part, [sys.executable, "-c", program], os.environ, tmp_path, tmp_path / "server.log")


def wait_for(what: object, expected: int) -> None:
    deadline = time.monotonic() + 20
    while len(what()) != expected and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)
    assert len(what()) == expected  # type: ignore[operator]


def test_a_part_is_its_first_process_and_its_descendants_belong_to_it(mark: Mark, tmp_path: Path) -> None:
    started = start(mark, tmp_path, PARENT)
    wait_for(mark.processes, 2)
    found = mark.first_of("server")
    assert found is not None
    assert found.process == started
    assert mark.first_of("worker") is None


def test_processes_of_another_mark_and_the_one_that_asks_are_not_found(mark: Mark, tmp_path: Path) -> None:
    start(mark, tmp_path, CHILD)
    wait_for(mark.processes, 1)
    assert Mark(f"{tmp_path}-other").processes() == []
    assert os.getpid() not in {process.pid for process in mark.processes()}


def test_a_descendant_whose_parent_was_killed_is_found(mark: Mark, tmp_path: Path) -> None:
    parent = start(mark, tmp_path, PARENT)
    wait_for(mark.processes, 2)
    parent.kill()
    parent.wait()
    wait_for(mark.processes, 1)
    assert mark.first_of("server") is None, "what it left is no server"


def test_stopping_is_by_term_and_by_kill_for_those_that_stay(mark: Mark, tmp_path: Path) -> None:
    start(mark, tmp_path, DEAF)
    polite = start(mark, tmp_path, CHILD)
    deadline = time.monotonic() + 20
    while "deaf" not in (tmp_path / "server.log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    stayed = stop(mark.processes(), grace_seconds=1)
    assert len(stayed) == 1
    assert polite not in stayed
    assert mark.processes() == []
