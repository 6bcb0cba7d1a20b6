"""A claim in the store keeps two flow runs on one name apart.

    {store}/{folder}/{n:08d}.json        claim n, created conditionally: n is the fencing number
    {store}/{folder}/{n:08d}/beat        written again and again while it is held
    {store}/{folder}/{n:08d}/released    its holder has ended
    {store}/{folder}/{n:08d}/asked       somebody waits for the holder to end

A holder that is not heard of for the lease has lost its claim, whether it died or hangs: who comes next makes claim
n + 1. Where order matters, as in the ledger, a holder calls `check` before it writes. Ages are told by the store's own
clock; a holder that died on this machine is known at once.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infra.errors import ClaimLost, FrostlineError, Held
from infra.log import create_in, entry_key, newest_in
from infra.store import Store

Policy = Literal["queue", "skip", "replace"]
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Pace:
    """How often a holder is heard, and how long nothing may be heard of it."""

    beat_seconds: float = 10
    lease_seconds: float = 60
    poll_seconds: float = 2


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


@dataclass(frozen=True)
class Claim:
    """Number `number` of the claims in `folder`."""

    store: Store
    folder: str
    number: int
    holder: Holder

    def key(self, name: str) -> str:
        return f"{entry_key(self.folder, self.number).removesuffix('.json')}/{name}"

    def check(self) -> None:
        """Raises ClaimLost where another one has claimed since: what this holder decided is outdated."""
        newest = Claims(self.store, self.folder).newest()
        if newest is not None and newest.number > self.number:
            raise ClaimLost(
                f"claim {self.number} of {self.holder.what} was lost: nothing was heard of this process for too long, "
                f"and {newest.holder.told()} has claim {newest.number}. The ledger is as it was; start again: what was "
                "made is reused."
            )


@dataclass(frozen=True)
class Claims:
    """All claims on one name."""

    store: Store
    folder: str
    pace: Pace = Pace()

    @contextmanager
    def held(
        self, holder: Holder, policy: Policy, tell: Callable[[str], None], give_way: Callable[[str], None]
    ) -> Iterator[Claim]:
        """Hold the next claim for the time of the block.

        While another one is held: `skip` raises Held, `queue` waits, `replace` asks the holder to end and waits.
        `give_way` is called, from another thread, when this holder is asked to end or has lost its claim."""
        claim = self._take(holder, policy, tell)
        over, telling = threading.Event(), threading.Lock()

        def tell_once_at_work(to: str) -> None:
            with telling:
                if not over.is_set():
                    give_way(to)

        beating = threading.Thread(target=self._beat, args=(claim, over, tell_once_at_work), name="claim", daemon=True)
        beating.start()
        try:
            yield claim
        finally:
            try:
                with telling:  # who has finished is not interrupted any more
                    over.set()
                beating.join()
            finally:
                with suppress(FrostlineError):  # a store that is away: the lease runs out
                    self.store.create(claim.key("released"), b"by its holder")

    def newest(self) -> Claim | None:
        found = newest_in(self.store, self.folder)
        if found is None:
            return None
        return Claim(self.store, self.folder, found["number"], Holder.model_validate(found["holder"]))

    def is_held(self, claim: Claim) -> bool:
        """Whether its holder is at work, as far as can be known."""
        return not self.has_ended(claim) and self._silent_seconds(claim) <= self.pace.lease_seconds

    def has_ended(self, claim: Claim) -> bool:
        """Whether its holder is known to have ended. Only reads; one that is lost otherwise, only `is_held` finds."""
        return self.store.exists(claim.key("released")) or _died_here(claim.holder)

    def heard_at(self, claim: Claim) -> float:
        """When its holder was heard last, in seconds since 1970 by the store's clock."""
        return self._heard_at(claim, {each.key: each.modified_at for each in self.store.objects(self.folder)})

    def _heard_at(self, claim: Claim, times: Mapping[str, float]) -> float:
        return max(times.get(claim.key("beat"), 0.0), times.get(entry_key(self.folder, claim.number), 0.0))

    def _take(self, holder: Holder, policy: Policy, tell: Callable[[str], None]) -> Claim:
        told_of = 0
        while True:
            newest = self.newest()
            if newest is None or not self.is_held(newest):
                since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                stamped = holder.model_copy(update={"since": since, "token": uuid.uuid4().hex})
                number = newest.number + 1 if newest else 1
                if create_in(self.store, self.folder, number, {"holder": stamped.model_dump()}):
                    return Claim(self.store, self.folder, number, stamped)
                continue
            if policy == "skip":
                raise Held(
                    f"{newest.holder.told()} has claim {newest.number}; expected nobody at work on this. "
                    "Wait for its end, or start with another policy: queue, replace."
                )
            if told_of != newest.number:
                told_of = newest.number
                if policy == "replace":
                    self.store.create(newest.key("asked"), holder.told().encode())
                asked = "asked it to end, and " if policy == "replace" else ""
                tell(f"{newest.holder.told()} has claim {newest.number}: {asked}waiting for its end")
            time.sleep(self.pace.poll_seconds)

    def _silent_seconds(self, claim: Claim) -> float:
        """Since the holder was last heard, by the store's clock, which gives a new object the time of now."""
        now_key = claim.key(f"now-{uuid.uuid4().hex}")
        self.store.write(now_key, b"")
        try:
            times = {each.key: each.modified_at for each in self.store.objects(self.folder)}
        finally:
            self.store.delete(now_key)
        if now_key not in times:
            return 0.0  # a listing may be incomplete: the next one tells
        return times[now_key] - self._heard_at(claim, times)

    def _beat(self, claim: Claim, over: threading.Event, give_way: Callable[[str], None]) -> None:
        has_asked = False
        for count in itertools.count(1):
            if over.wait(self.pace.beat_seconds):
                return
            try:
                self.store.write(claim.key("beat"), str(count).encode())
                asked = self.store.read(claim.key("asked"))
                newest = self.newest()
            except Exception:
                # A beat must outlive whatever a store or a newer claim's form raises: if none passes for the lease, the
                # claim is lost, and `check` says so before anything of order is written.
                continue
            if newest is not None and newest.number > claim.number:
                give_way(f"{newest.holder.told()}, after nothing was heard of this process")
                return
            if asked is not None and not has_asked:
                has_asked = True
                give_way(asked.decode())


def _died_here(holder: Holder) -> bool:
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
