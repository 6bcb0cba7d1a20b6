"""What made an output without deciding its rows: time, machine resources, commit, package versions."""

import subprocess
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

RECORDED_PACKAGES = ("torch", "transformers", "deepspeed", "ray", "prefect", "mlflow", "pyarrow", "pillow")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    created_at: str
    seconds: float
    git_commit: str
    packages: dict[str, str]
    resources: dict[str, Any]


def record_of(started: float, resources: Mapping[str, Any]) -> Record:
    return Record(
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=round(time.time() - started, 3),
        git_commit=git_commit(),
        packages=package_versions(),
        resources=dict(resources),
    )


@cache
def git_commit() -> str:
    """The commit of this source tree, with `+dirty` where files differ; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+dirty" if changed.strip() else "")


def package_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
