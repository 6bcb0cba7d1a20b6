"""Which process holds something, so that others find out whether it lives."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


class Holder(BaseModel):
    """Who holds a claim, for a person and for finding out whether it lives."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    what: str
    """In words: `retrain of quickstart`."""
    host: str
    machine: str
    """The same for all processes that see each other's ids, and for no others."""
    pid: int
    started: str | None
    """Tells this process from a later one with its id; None where the system does not tell."""
    flow_run_id: str | None = None
    since: str = ""
    token: str = ""
    """Differs between any two claims."""

    def told(self) -> str:
        since = f" since {self.since}" if self.since else ""
        return f"{self.what} on {self.host} (pid {self.pid}){since}"


def this_process(what: str, flow_run_id: str | None = None) -> Holder:
    import socket

    return Holder(
        what=what,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_state_and_start(os.getpid())[1],
        flow_run_id=flow_run_id,
    )


def died_here(holder: Holder) -> bool:
    """Known at once of a process of this machine; of others the lease tells."""
    if holder.machine != _machine():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, alive
    state, started = _state_and_start(holder.pid)
    return state in ("Z", "X") or (started is not None and started != holder.started)


def _state_and_start(pid: int) -> tuple[str | None, str | None]:
    """(one letter, clock ticks since the boot), where the system tells them. As a time of day the start would move when
    the clock is set."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], fields[19]


def _machine() -> str:
    """Processes of two containers on one machine do not see each other, and restarts begin ids anew."""
    try:
        return f"{BOOT_ID.read_text().strip()}/{PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return f"no boot id/{uuid.getnode()}"
