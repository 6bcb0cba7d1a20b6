"""The tiny recipe, run once by the command and kept as it was then."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TINY = str(Path(__file__).resolve().parents[1] / "recipes" / "tiny.yaml")
FROSTLINE = str(Path(sys.executable).parent / "frostline")


def environment_of(var: Path) -> dict[str, str]:
    """Of a command that keeps all it makes in `var`."""
    environment = {**os.environ, "FROSTLINE_VAR_DIR": str(var)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return environment


@dataclass(frozen=True)
class TinyRun:
    """`var` is there to be gone on with; `as_it_ended` is a copy of it, to be read only."""

    var: Path
    as_it_ended: Path
    found: dict[str, Any]
    """What the command printed, from --json."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Made where it is not there yet."""
        var, as_it_ended, found = (folder / name for name in ("var", "as_it_ended", "found.json"))
        if found.exists():
            return cls(var, as_it_ended, json.loads(found.read_text()))
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [FROSTLINE, "run", TINY, "--json"],
            env=environment_of(var), capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        shutil.copytree(var, as_it_ended)
        found.write_text(done.stdout)
        return cls(var, as_it_ended, json.loads(done.stdout))
