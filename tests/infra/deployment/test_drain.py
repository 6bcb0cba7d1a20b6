"""`python -m infra.drain`: what a container's stop gives to flow runs."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from deployed import REPOSITORY

FLOW_RUN = "trap 'sleep 1; echo saved > {folder}/saved; exit 0' TERM; touch {folder}/begun; while :; do sleep 0.1; done"
WORKER = "setsid sh -c \"$FLOW_RUN\" & trap 'exit 7' TERM; while :; do sleep 0.1; done"
"""As Prefect's: it starts flow runs in process groups of their own and ends at once when it is told to."""


def started(folder: Path, grace: float) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.drain", "--grace", str(grace), "sh", "-c", WORKER],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "FLOW_RUN": FLOW_RUN.format(folder=folder)},
    )
    deadline = time.monotonic() + 30
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_a_flow_run_may_finish_what_it_writes_before_the_container_ends(tmp_path: Path) -> None:
    process = started(tmp_path, grace=20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 7
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_a_flow_run_that_takes_longer_than_its_grace_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path, grace=0.3)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    time.sleep(1.2)
    assert not (tmp_path / "saved").exists()


def test_the_exit_code_is_that_of_the_command() -> None:
    command = [sys.executable, "-m", "infra.drain", "sh", "-c", "exit 5"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 5
