"""`python -m infra.drain`: what a container's stop gives to flow runs."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from deployed import COMPOSE, REPOSITORY
from kubernetes_containers import BASE

FLOW_RUN = "trap 'sleep 1; echo saved > {folder}/saved; exit 0' TERM; touch {folder}/begun; while :; do sleep 0.1; done"
WORKER = "setsid sh -c \"$FLOW_RUN\" & trap 'exit 7' TERM; while :; do sleep 0.1; done"
"""As Prefect's: it starts flow runs in process groups of their own and ends at once when it is told to."""


def started(folder: Path, grace: float, condition: str = "true") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.drain", "--grace", str(grace), "--while", condition, "sh", "-c", WORKER],
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


@contextmanager
def node_of_ray(name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of that name, which is not the one of somebody else's Ray on this machine."""
    sleep = shutil.which("sleep")
    assert sleep
    node = subprocess.Popen([shutil.copy(sleep, folder / name), "300"])
    try:
        yield node
    finally:
        node.kill()
        node.wait()


@pytest.mark.parametrize("file", [COMPOSE, BASE / "worker.yaml"], ids=["compose", "kubernetes"])
def test_the_container_ends_when_its_node_of_ray_does_and_flow_runs_may_finish_first(
    file: Path, tmp_path: Path
) -> None:
    (condition,) = re.findall(r'infra\.drain --grace 90 --while "([^"]*)"', file.read_text())
    ray = find_spec("ray")
    assert ray and ray.origin and Path(ray.origin).with_name("core").joinpath("src/ray/raylet/raylet").is_file()
    name = f"raylet-{file.stat().st_ino % 10**6}"
    with node_of_ray(name, tmp_path) as node:
        process = started(tmp_path, 20, condition.replace("raylet", shlex.quote(name)))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        node.kill()
        node.wait()
        assert process.wait(30) == 1
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_the_exit_code_is_that_of_the_command() -> None:
    command = [sys.executable, "-m", "infra.drain", "sh", "-c", "exit 5"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 5
