"""A disk that is full or read-only from any write on: one sentence that names the place, nothing torn, and the same
command completes once there is space.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from crash_points import Point
from fault_cases import Case, check_all

from infra.store import LocalStore

CLASSES = {"ENOSPC": "PlatformError", "EROFS": "ConfigError"}
SETTINGS = {"store": "--store", "cache": "FROSTLINE_CACHE_DIR", "temp": "TMPDIR"}
WRITES = ("mkdir", "open", "write", "sendfile", "fsync", "link", "rename")


def place_of(point: Point) -> str:
    first = point.action.split()[0]
    return {"cache": "cache", "local": "temp"}.get(first, "store")


def check_full(case: Case, point: Point, faults: Sequence[str]) -> None:
    for fault in faults:
        folder = case.folder / "full"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        shutil.copytree(case.start, folder, dirs_exist_ok=True)
        (case.folder / "full.json").unlink(missing_ok=True)
        status = case.run(folder, "full", FAULT_AT=str(point), FAULT_DOES=fault, TMPDIR=str(folder / "tmp"))
        assert status == 0, f"{fault}: another exception than ours"
        told = case.answer("full")
        place = place_of(point)
        if told.keys() == {"error", "message"}:
            assert told["error"] == CLASSES[fault], told
            where = {"store": (folder / "store").as_uri(), "cache": str(folder / "cache"), "temp": str(folder / "tmp")}
            assert told["message"].startswith(where[place]), told
            assert SETTINGS[place] in told["message"]
            assert "\n" not in told["message"]
        else:
            assert told == case.expected, "neither an error nor the output"
        published = case.outputs(LocalStore(folder / "store"))
        assert published in (case.before, case.after)
        if published == case.after:
            assert point.action in ("manifest create", "log append", "journal delete", "checkpoints delete"), told
        assert [path.name for path in (folder / "tmp").iterdir()] == [], "a temporary folder was left"
        case.check_finished(folder, "freed")


def writes(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.call.split()[-1:] and point.call.split()[-1] in WRITES]


def check_some(case: Case) -> None:
    """Every call within the last upload and the manifest, the first within the last of the others; faults in turn."""
    last = {point.action: point.number for point in case.points}
    inner = [point for point in writes(case.points) if point.number == last[point.action]]
    first = {point.action: point for point in reversed(inner)}
    chosen = [p for p in inner if p.action in ("upload part", "manifest create") or p == first[p.action]]
    faults = dict(zip(chosen, itertools.cycle(CLASSES), strict=False))
    check_all(case, chosen, lambda case, point: check_full(case, point, [faults[point]]))


def check_every(case: Case) -> None:
    check_all(case, writes(case.points), lambda case, point: check_full(case, point, list(CLASSES)))


@pytest.mark.slow
def test_an_ingest_on_a_full_disk_names_it_and_completes_when_there_is_space(continued: Case) -> None:
    check_some(continued)


@pytest.mark.slow
def test_a_featurize_on_a_full_disk_names_it_and_completes_when_there_is_space(grown: Case) -> None:
    check_some(grown)


@pytest.mark.faults
def test_an_ingest_on_a_disk_full_at_any_write_completes_when_there_is_space(continued: Case) -> None:
    check_every(continued)


@pytest.mark.faults
def test_a_featurize_on_a_disk_full_at_any_write_completes_when_there_is_space(grown: Case) -> None:
    check_every(grown)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 4 MiB, of which `ballast` leaves little."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def leave_free(disk: Path, num_bytes: int) -> None:
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    usage = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - num_bytes)))


@pytest.mark.slow
@pytest.mark.parametrize("place", sorted(SETTINGS))
def test_an_ingest_on_a_small_disk_goes_on_each_time_there_is_more_space(
    place: str, continued: Case, small_disk: Path, tmp_path: Path
) -> None:
    """A real disk, where writes fail half way; half a shard more fits in at each try."""
    folder = tmp_path / "small"
    shutil.copytree(continued.start, folder)
    folder.joinpath("cache").mkdir()
    environment: dict[str, str] = {}
    if place == "temp":
        environment["TMPDIR"] = str(small_disk)
    else:
        shutil.move(folder / place, small_disk / place)
        (folder / place).symlink_to(small_disk / place)
    where = {"store": (folder / "store").as_uri(), "cache": str(folder / "cache"), "temp": str(small_disk)}
    num_failed = 0
    for kilobytes in range(4, 60, 8):
        leave_free(small_disk, kilobytes * 1024)
        assert continued.run(folder, "small", **environment) == 0
        told = continued.answer("small")
        if told != continued.expected:
            num_failed += 1
            assert (told["error"], told["message"].startswith(where[place])) == ("PlatformError", True), told
            assert continued.outputs(LocalStore(folder / "store")) in (continued.before, continued.after)
    assert num_failed >= 2
    (small_disk / "ballast").unlink()
    continued.check_finished(folder, "freed")
