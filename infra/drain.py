"""Run Prefect's worker in a container, and let its flow runs end well when the container is stopped:

    python -m infra.drain --grace 90 --while "grep -qsx raylet /proc/[0-9]*/comm" prefect worker start --pool local

A container is stopped by SIGTERM to its first process and SIGKILL to all others once that one has ended. Prefect's
worker would end at once; flow runs need time to commit a checkpoint. Without the Ray node beside them none can run:
when the command of `--while` fails, the container ends, and whoever runs it starts it again with a new node.
"""

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from infra.marked_processes import stop

GRACE_SECONDS = 90.0
POLL_SECONDS = 1.0


def run_and_drain(command: Sequence[str], condition: str, grace_seconds: float) -> int:
    """The command's exit code, or 1 where the condition, asked of the shell once a second, failed first.

    Then, and at SIGTERM or SIGINT, the command and all that it started directly get SIGTERM, and SIGKILL after
    `grace_seconds`."""
    import psutil

    told = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _signal, _frame: told.set())
    first = psutil.Popen(list(command), start_new_session=True)  # psutil's own: `stop` waits for it, too
    holds = True
    while holds and not told.wait(POLL_SECONDS):
        if first.poll() is not None:
            return int(first.returncode)
        holds = subprocess.run(["sh", "-c", condition], check=False).returncode == 0
    flow_runs = first.children() if first.is_running() else []
    why = "asked to" if holds else f"`{condition}` failed"
    print(
        f"stopping, {why}, with {len(flow_runs)} flow runs (at most {grace_seconds:g} s)", file=sys.stderr, flush=True
    )
    stop([first, *flow_runs], grace_seconds)
    return int(first.wait()) if holds else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.drain", description=__doc__)
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds")
    parser.add_argument("--while", dest="condition", default="true", help="a shell's command")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    return run_and_drain(asked.command, asked.condition, asked.grace)


if __name__ == "__main__":
    sys.exit(main())
