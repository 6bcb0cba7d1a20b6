"""Scratch folders: removed by whoever made them, or by the next process when that one was killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from infra.disk import LOCKED_WITHIN_SECONDS, scratch_folder
from infra.errors import FrostlineError

HOLDS_ONE = """
import sys
from infra.disk import scratch_folder
with scratch_folder("test") as folder:
    (folder / "part").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def make_old(folder: Path) -> None:
    when = folder.stat().st_mtime - LOCKED_WITHIN_SECONDS - 1
    os.utime(folder, (when, when))


def hold_one() -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLDS_ONE]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_scratch_folder_is_gone_after_use_and_after_an_error(temporary: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder("test") as folder:
        (folder / "part").touch()
        raise RuntimeError
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(temporary: Path) -> None:
    """Shown to fail: without `flock` the folder of the living process goes, too; without the sweep that of the killed
    one stays for ever."""
    living, used = hold_one()
    killed, left = hold_one()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for folder in (used, left):
        make_old(folder)
    with scratch_folder("test"):
        assert used.exists()
        assert not left.exists()
    living.communicate("")
    assert list(temporary.iterdir()) == []


def test_a_new_scratch_folder_is_not_swept_before_its_maker_can_lock_it(temporary: Path) -> None:
    new = temporary / "frostline-scratch-test-1"
    new.mkdir()
    with scratch_folder("test"):
        assert new.exists()


def test_no_folder_for_temporary_files_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FrostlineError, match=r"nowhere: cannot write .* TMPDIR"), scratch_folder("test"):
        pytest.fail("it was made")
