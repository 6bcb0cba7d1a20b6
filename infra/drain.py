"""Run Prefect's worker in a container, and let its flow runs end well when the container is stopped:

    python -m infra.drain --grace 90 prefect worker start --pool local

A container is stopped by SIGTERM to its first process and SIGKILL to all others once that one has ended. Prefect's
worker would end at once; flow runs need time to commit a checkpoint.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from infra.marked_processes import stop

GRACE_SECONDS = 90.0
POLL_SECONDS = 0.5


def run_and_drain(command: Sequence[str], grace_seconds: float) -> int:
    """The command's exit code. At SIGTERM or SIGINT the command and all that it started directly get SIGTERM, and
    SIGKILL after `grace_seconds`."""
    import psutil

    told = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _signal, _frame: told.set())
    first = psutil.Popen(list(command), start_new_session=True)  # psutil's own: `stop` waits for it, too
    while not told.wait(POLL_SECONDS):
        if first.poll() is not None:
            return int(first.returncode)
    flow_runs = first.children() if first.is_running() else []
    print(f"stopping, with {len(flow_runs)} flow runs (at most {grace_seconds:g} s)", file=sys.stderr, flush=True)
    stop([first, *flow_runs], grace_seconds)
    return int(first.wait())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.drain", description=__doc__)
    parser.add_argument("--grace", type=float, default=GRACE_SECONDS, help="seconds")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    return run_and_drain(asked.command, asked.grace)


if __name__ == "__main__":
    sys.exit(main())
