"""Ctrl-C at a terminal, which reaches every process of the foreground group, Prefect's server and Ray included."""

import contextlib
import os
import pty
import shutil
import time
from pathlib import Path

import pytest
from tiny_run import FROSTLINE, TINY, TinyRun

CTRL_C = b"\x03"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ctrl_c_in_training_commits_a_checkpoint_and_says_how_to_go_on(tiny_run: TinyRun, tmp_path: Path) -> None:
    for step in ("ingest", "base", "featurize"):
        shutil.copytree(tiny_run.as_it_ended / "store" / step, tmp_path / "store" / step)
    process, terminal = pty.fork()
    if process == 0:
        os.environ["FROSTLINE_VAR_DIR"] = str(tmp_path)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.execv(FROSTLINE, [FROSTLINE, "run", TINY, "--set", "training.epochs=4000"])
    said, asked_at = b"", 0.0
    deadline = time.monotonic() + 900
    os.set_blocking(terminal, False)
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < deadline, f"it never ended: {said[-2000:]!r}"
        try:
            said += os.read(terminal, 65536)
        except (BlockingIOError, OSError):
            time.sleep(0.05)
        if not asked_at and list((tmp_path / "store").glob("train/checkpoints/*/*/manifest.json")):
            os.write(terminal, CTRL_C)
            asked_at = time.monotonic()
            deadline = asked_at + 90
    with contextlib.suppress(OSError):
        said += os.read(terminal, 65536)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 75, said[-2000:]
    assert b"with a checkpoint. Start again to go on from there." in said
    assert b"Traceback" not in said
