"""A side of a comparison: a process that has imported all it needs, and then does what each line of JSON asks.

Sides live as long as the measurement, so that their runs can be interleaved and no run pays for imports. Only the
standard library is used here: one of the sides has a virtual environment of its own.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
BENCHMARKS = Path("tests/benchmarks")
PYTHON_PATH = (".", "tests/benchmarks/shared", "tests/support")
"""Of every side, from the repository's root."""
Command = Callable[..., dict[str, Any]]


class Side:
    """Drives one such process. Use as a context; `ask` returns what the command of this name returned."""

    def __init__(
        self,
        name: str,
        python: str | Path,
        script: str,
        cores: Sequence[int],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = [str(python), str(BENCHMARKS / script)]
        if variables:
            self.command = ["env", *(f"{key}={value}" for key, value in variables.items()), *self.command]
        self.command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *self.command]
        self.num_cores = len(cores)

    def __enter__(self) -> "Side":
        path = os.pathsep.join(str(REPOSITORY / folder) for folder in PYTHON_PATH)
        environment = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY, env=environment, start_new_session=True
        )
        self.pid = self._process.pid
        self.versions: dict[str, str] = self._answer()["versions"]
        return self

    def __exit__(self, *_: object) -> None:
        """The end of its input is its sign to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}; its own words stand above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(commands: Mapping[str, Command], packages: Sequence[str]) -> None:
    """The other end: answer each line of standard input until it ends. What libraries print goes to standard error."""
    from importlib.metadata import version

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    answer({"versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}}})
    for line in sys.stdin:
        asked = json.loads(line)
        answer(commands[asked.pop("command")](**asked))


class Timed:
    """Seconds on the clock, and CPU seconds of this process and of its children that have ended."""

    def __enter__(self) -> "Timed":
        os.sync()  # what earlier runs wrote is not this one's to flush
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = _cpu_seconds() - self._cpu


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
