"""SIGKILL of the whole process group at random times, again and again, until the command comes to its end.

Shown to fail: with `masked` and `files` parts uploaded a while after the manifest a reader between two kills misses
them. What lasts milliseconds is for test_crash_points.py to hit.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from feeds import earlier_feeds, later_feeds

from infra import log
from infra.outputs import Manifest
from infra.store import LocalStore
from infra.verify import manifests, verify_store

REPOSITORY = Path(__file__).resolve().parents[2]
SUPPORT = REPOSITORY / "tests" / "support"
TINY = str(REPOSITORY / "tests" / "recipes" / "tiny.yaml")
FROSTLINE = str(Path(sys.executable).parent / "frostline")


@dataclass
class Command:
    """`arguments`, in which {} is the folder that the outputs lie in."""

    arguments: Sequence[str]
    sign: str
    """What it says or makes when it begins to work: a glob below the folder, or a word on its output."""

    def start(self, folder: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "FROSTLINE_VAR_DIR": str(folder)}
        environment["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        environment.pop("MLFLOW_TRACKING_URI", None)
        folder.mkdir(exist_ok=True)
        with (folder / "errors").open("w") as errors:
            return subprocess.Popen(
                [argument.format(folder) for argument in self.arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def begins(self, process: subprocess.Popen[str], folder: Path) -> None:
        """Return when it has begun to work."""
        assert process.stdout is not None
        if "*" not in self.sign:
            assert process.stdout.readline().strip() == self.sign, (folder / "errors").read_text()[-3000:]
        else:
            while not list(folder.glob(self.sign)):
                assert process.poll() is None, (folder / "errors").read_text()[-3000:]
                time.sleep(0.01)

    def seconds(self, folder: Path) -> float:
        """Run it undisturbed; how long it works."""
        process = self.start(folder)
        self.begins(process, folder)
        since = time.monotonic()
        process.communicate(timeout=500)
        assert process.returncode == 0, (folder / "errors").read_text()[-3000:]
        return time.monotonic() - since


def kill_until_it_ends(command: Command, folder: Path, seconds: float, seed: int, max_kills: int) -> int:
    """The number of kills it took. Times are spread over what an undisturbed run works, and a fifth more."""
    chance = random.Random(seed)
    for num_kills in range(max_kills + 1):
        process = command.start(folder)
        command.begins(process, folder)
        patience = chance.uniform(0, 1.2 * seconds) if num_kills < max_kills else 500
        try:
            process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            check_between(folder)
            continue
        assert process.returncode == 0, (folder / "errors").read_text()[-3000:]
        return num_kills
    raise AssertionError(f"{command.arguments[0]} did not end in 500 seconds")


def check_between(folder: Path) -> None:
    """A reader sees whole outputs only, and each that is logged."""
    store = LocalStore(folder / "store")
    assert verify_store(store).damaged == []


def outputs(folder: Path) -> dict[str, Any]:
    """By step and fingerprint, what was made and how often it is logged."""
    store = LocalStore(folder / "store")
    assert verify_store(store).damaged == []
    found: dict[str, Any] = {}
    for _, made in manifests(store):
        assert isinstance(made, Manifest)
        logged = [entry["fingerprint"] for entry in log.entries(store, made.step, made.name)]
        assert logged.count(made.fingerprint) == 1
        found[f"{made.step} {made.fingerprint}"] = made.draft.model_dump(mode="json")
    return found


def check(command: Command, folder: Path, seeds: Sequence[int], max_kills: int) -> int:
    """The kills of all seeds together. `folder` holds a `start` to copy, or nothing."""
    (folder / "start").mkdir(exist_ok=True)
    shutil.copytree(folder / "start", folder / "undisturbed")
    seconds = command.seconds(folder / "undisturbed")
    expected, num_kills = outputs(folder / "undisturbed"), 0
    for seed in seeds:
        killed = folder / f"killed-{seed}"
        shutil.copytree(folder / "start", killed)
        num_kills += kill_until_it_ends(command, killed, seconds, seed, max_kills)
        assert outputs(killed) == expected, f"seed {seed}"
        with suppress(OSError):  # a worker of Ray that outlives its driver may write a log
            shutil.rmtree(killed)
    return num_kills


def pipeline(sources: list[dict[str, Any]], tower: Path) -> Command:
    text = json.dumps(sources).replace("{", "{{").replace("}", "}}")
    return Command([sys.executable, str(SUPPORT / "pipeline_program.py"), "{}", text, str(tower)], "ready")


@pytest.mark.faults
def test_ingest_and_featurize_killed_at_random_times_end_as_if_undisturbed(tower: Path, tmp_path: Path) -> None:
    check(pipeline(later_feeds(tmp_path), tower), tmp_path, [1], max_kills=2)


@pytest.mark.faults
def test_a_continued_ingest_and_featurize_killed_at_many_random_times_end_as_if_undisturbed(
    tower: Path, tmp_path: Path
) -> None:
    pipeline(earlier_feeds(tmp_path), tower).seconds(tmp_path / "start")
    assert check(pipeline(later_feeds(tmp_path), tower), tmp_path, range(2, 22), max_kills=8) >= 10


@pytest.mark.faults
def test_the_command_killed_at_random_times_ends_as_if_undisturbed(tmp_path: Path) -> None:
    command = Command([FROSTLINE, "run", TINY, "--until", "featurize"], "store/*/*")
    assert check(command, tmp_path, range(4), max_kills=4) >= 2
