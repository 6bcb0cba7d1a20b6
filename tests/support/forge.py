"""A process that has imported everything once and forks a child for each call: a fresh process in milliseconds.

python forge.py MODULE [WARM_UP…], then one JSON call per line on stdin; the answer to each is its child's exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm


class Forge:
    """`run` calls a function of the module in a child and returns its exit status, negative for a signal."""

    def __init__(self, module: str, *warm_up: str) -> None:
        """`warm_up` are arguments of the module's function of this name, which the process itself calls."""
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2]), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__, module, *warm_up],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, function: str, *arguments: Any, **environment: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = {"function": function, "arguments": arguments, "environment": environment}
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the module or its libraries print is no answer
    # tqdm's own lock is shared by all children: one that is killed while it holds it would stop all later ones.
    tqdm.set_lock(threading.RLock())
    module = importlib.import_module(sys.argv[1])
    if len(sys.argv) > 2:
        module.warm_up(*sys.argv[2:])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _serve(module, json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _serve(module: Any, call: dict[str, Any]) -> None:
    status = 1
    try:
        os.environ.update(call["environment"])
        tempfile.gettempdir()  # where TMPDIR of this call says
        if any(name.startswith("FAULT_") for name in call["environment"]):
            importlib.import_module("crash_points")
        getattr(module, call["function"])(*call["arguments"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
