"""Sharing work among actors that may die. Workers are made inside functions, so that they travel by value."""

import ctypes
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.errors import ConfigError, DataError, PlatformError
from infra.progress import Silent
from infra.ray import STARTS, connected
from infra.ray_board import pass_on, start_board
from infra.ray_pool import run_units
from infra.settings import ActorResources, RayResources

pytestmark = pytest.mark.slow
SMALL = RayResources(num_cpus=2, object_store_memory_bytes=100 * 2**20)
TWO_ACTORS = ActorResources(num_actors=2, max_restarts=2, stuck_seconds=3)


def test_a_cluster_that_is_not_there_is_a_platform_error(tmp_path: Path) -> None:
    """Before the module's Ray starts: inside a running one, `connected` joins that."""
    with pytest.raises(PlatformError) as caught, connected(RayResources(address="127.0.0.1:9"), tmp_path):
        pass
    assert "127.0.0.1:9" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_an_address_the_cluster_of_the_environment_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(PlatformError, match=r"127\.0\.0\.1:9"), connected(RayResources(), tmp_path):
        pass


def starts_late(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Any]:
    """As on a machine that is too busy for the 30 s that Ray gives a node; and what was started in vain."""
    import ray
    import ray._private.services as services

    init, started = ray.init, []

    def start(**options: Any) -> None:
        if len(started) < times:
            started.append(services.ConsolePopen(["sleep", "600"]))
            raise Exception("The current node timed out during startup.")
        init(**options)

    monkeypatch.setattr(ray, "init", start)
    return started


def test_a_node_that_was_not_up_in_time_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    late = starts_late(monkeypatch, 1)
    with connected(SMALL, tmp_path):
        assert ray.is_initialized()
    assert [process.returncode for process in late] == [-signal.SIGKILL]


def test_a_node_that_is_never_up_in_time_is_a_platform_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = starts_late(monkeypatch, STARTS)
    with (
        pytest.raises(PlatformError, match=r"cannot be reached \(The current node timed out"),
        connected(SMALL, tmp_path),
    ):
        pass
    assert [process.returncode for process in late] == [-signal.SIGKILL] * STARTS


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with connected(SMALL, tmp_path_factory.mktemp("ray")):
        yield


def worker_class() -> type[Any]:
    def refuse() -> None:
        raise DataError("unit b was found torn; expected whole.")

    fates: dict[str, Callable[[], object]] = {
        "": lambda: None,
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "exits": lambda: sys.exit(0),
        "vanishes": lambda: os._exit(0),
        "hangs": lambda: time.sleep(3600),
        "freezes": lambda: ctypes.PyDLL(None).sleep(3600),  # keeps the interpreter's lock, as a broken extension may
        "raises": refuse,
    }

    class Worker:
        """Does what the unit says, once per marker where it is told to die."""

        def __init__(self, folder: Path, fails: bool = False) -> None:
            if fails:
                raise ConfigError("the tower was not found; expected one.")
            self.folder = folder

        def run(self, unit: str) -> tuple[str, int]:
            name, _, fate = unit.partition(" ")
            with (self.folder / "ran").open("a") as file:
                file.write(name + "\n")
            marker = self.folder / f"died-{name}"
            if fate.endswith("once") and marker.exists():
                fate = ""
            marker.touch()
            fates[fate.split(" ")[0]]()
            return name.upper(), os.getpid()

    return Worker


def test_workers_are_as_near_to_the_processor_as_who_starts_them(ray: None) -> None:
    class Niceness:
        def run(self, _: str) -> int:
            return os.nice(0)

    found: list[int] = []
    run_units(Niceness, {}, {"a": ""}, TWO_ACTORS, lambda _, niceness: found.append(niceness))
    assert found == [os.nice(0)]


def run(folder: Path, units: list[str], **arguments: Any) -> list[tuple[str, str]]:
    results: list[tuple[str, str]] = []
    pids: set[int] = set()

    def keep(name: str, result: tuple[str, int]) -> None:
        results.append((name, result[0]))
        pids.add(result[1])

    named = {unit.partition(" ")[0]: unit for unit in units}
    run_units(worker_class(), {"folder": folder, **arguments}, named, TWO_ACTORS, keep)
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids), "actors end with the work"
    return results


def ran(folder: Path) -> Counter[str]:
    return Counter((folder / "ran").read_text().split())


def test_every_unit_is_run_once_and_keeps_its_result(ray: None, tmp_path: Path) -> None:
    units = [f"u{number}" for number in range(20)]
    assert sorted(run(tmp_path, units)) == sorted((unit, unit.upper()) for unit in units)
    assert set(ran(tmp_path).values()) == {1}


def test_units_that_hang_always_are_given_up_and_named(ray: None, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"3 actors died over unit 'b' \(the last: it had no result in 3 seconds\)"):
        run(tmp_path, ["a", "b hangs always"])
    assert ran(tmp_path) == {"a": 1, "b": 3}


@pytest.mark.parametrize("fate", ["killed once", "exits once", "vanishes once", "hangs once", "freezes once"])
def test_an_actors_death_costs_the_unit_it_had(fate: str, ray: None, tmp_path: Path) -> None:
    """Without `replace_stuck` the hanging ones never end."""
    units = ["a", f"b {fate}", "c", "d", "e"]
    assert sorted(run(tmp_path, units)) == [(unit, unit.upper()) for unit in "abcde"]
    assert ran(tmp_path) == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 1}


def test_a_unit_that_kills_every_actor_is_given_up_and_named(ray: None, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="3 actors died over unit 'b'") as caught:
        run(tmp_path, ["a", "b killed always"])
    assert "\n" not in str(caught.value)
    assert ran(tmp_path)["b"] == 3


def test_an_error_of_the_work_arrives_as_it_is(ray: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^unit b was found torn; expected whole\.$"):
        run(tmp_path, ["a", "b raises"])


def test_an_error_of_the_constructor_is_not_taken_for_a_death(ray: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the tower was not found; expected one\.$"):
        run(tmp_path, ["a"], fails=True)


def test_what_workers_say_reaches_the_progress_once(ray: None) -> None:
    import ray as engine

    class Heard(Silent):
        def __init__(self) -> None:
            self.said: list[tuple[str, int, str]] = []

        def advance(self, label: str, amount: int = 1, note: str = "") -> None:
            self.said.append((label, amount, note))

    board, heard = start_board(), Heard()
    engine.get([board.say.remote("train", number, f"loss {number}") for number in range(3)])
    pass_on(board, heard)
    pass_on(board, heard)
    assert heard.said == [("train", number, f"loss {number}") for number in range(3)]
