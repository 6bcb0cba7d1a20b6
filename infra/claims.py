"""A claim in the store keeps two flow runs on one name apart.

    {store}/{folder}/{n:08d}.json        claim n, created conditionally: n is the fencing number
    {store}/{folder}/{n:08d}/beat        written again and again while it is held
    {store}/{folder}/{n:08d}/released    its holder has ended
    {store}/{folder}/{n:08d}/asked       somebody waits for the holder to end
    {store}/{folder}/waiting/{token}     who waits, written again and again until it holds a claim or gives up

A holder that is not heard of for the lease has lost its claim, whether it died or hangs: who comes next makes claim
n + 1. Where order matters, as in the ledger, a holder calls `check` before it writes. Ages are told by the store's own
clock; a holder that died on this machine is known at once. `reap` finds all that were lost, those who waited included.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from infra.errors import ClaimLost, FrostlineError, Held, IntegrityError, Interrupted
from infra.holders import Holder, died_here
from infra.log import ENTRY, create_in, entry_in, entry_key, newest_in
from infra.sealed import read_checked
from infra.store import Store

Policy = Literal["queue", "skip", "replace"]
GiveWay = Callable[[Interrupted | ClaimLost], None]
WAITING = "waiting"


@dataclass(frozen=True)
class Pace:
    """How often a holder is heard, and how long nothing may be heard of it."""

    beat_seconds: float = 10
    lease_seconds: float = 60
    poll_seconds: float = 2


@dataclass(frozen=True)
class Claim:
    """Number `number` of the claims in `folder`."""

    store: Store
    folder: str
    number: int
    holder: Holder

    def key(self, name: str) -> str:
        return _key(self.folder, self.number, name)

    @property
    def signs_of_life(self) -> tuple[str, str]:
        """Keys: when the newest of them was written, its holder was heard of."""
        return self.key("beat"), entry_key(self.folder, self.number)

    def check(self) -> None:
        """Raises ClaimLost where another one has claimed since: what this holder decided is outdated."""
        newest = Claims(self.store, self.folder).newest()
        if newest is not None and newest.number > self.number:
            raise self.lost_to(newest)

    def lost_to(self, newest: Claim) -> ClaimLost:
        return ClaimLost(
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
    def held(self, holder: Holder, policy: Policy, tell: Callable[[str], None], give_way: GiveWay) -> Iterator[Claim]:
        """Hold the next claim for the time of the block.

        While another one is held: `skip` raises Held, `queue` waits, `replace` asks the holder to end and waits.
        `give_way` is called, from another thread, when this holder is asked to end or has lost its claim: with
        Interrupted or ClaimLost, which say so."""
        claim = self._take(holder, policy, tell)
        over, telling = threading.Event(), threading.Lock()

        def tell_once_at_work(why: Interrupted | ClaimLost) -> None:
            with telling:
                if not over.is_set():
                    give_way(why)

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
        return self._claim(newest_in(self.store, self.folder))

    def _claim(self, entry: Mapping[str, Any] | None) -> Claim | None:
        if entry is None:
            return None
        try:
            holder = Holder.model_validate(entry["holder"])
        except (ValidationError, KeyError) as error:
            raise IntegrityError(
                f"{self.store.uri}/{entry_key(self.folder, entry['number'])}: no claim of this version; expected what "
                "this Frostline writes. Upgrade this machine, or restore the object from a backup."
            ) from error
        return Claim(self.store, self.folder, entry["number"], holder)

    def is_held(self, claim: Claim) -> bool:
        """Whether its holder is at work, as far as can be known."""
        return not self.has_ended(claim) and self._silent_seconds(*claim.signs_of_life) <= self.pace.lease_seconds

    def has_ended(self, claim: Claim) -> bool:
        """Whether its holder is known to have ended. Only reads; one that is lost otherwise, only `is_held` finds."""
        return self.store.exists(claim.key("released")) or died_here(claim.holder)

    def heard_at(self, claim: Claim) -> float:
        """When its holder was heard last, in seconds since 1970 by the store's clock."""
        times = {each.key: each.modified_at for each in self.store.objects(self.folder)}
        return max(times.get(key, 0.0) for key in claim.signs_of_life)

    def reap(self, reaper: Holder, on_lost: Callable[[Holder], None]) -> list[Holder]:
        """Free what processes hold that ended without a word or are not heard of; returns them, waiting ones included.

        A claim that is freed so is lost: if its holder is there after all, `check` says so. `on_lost` is called before
        each is freed; what it raises is raised here, and the next `reap` finds this one again."""
        newest = _number_of(self.newest())
        lost = [claim for claim in self._unreleased() if self._is_lost(claim)]
        for claim in lost:
            on_lost(claim.holder)
            if claim.number == newest and (fence := self._create(claim.number + 1, reaper)):
                self.store.create(fence.key("released"), b"by its holder")
            self.store.create(claim.key("released"), f"by {reaper.told()}".encode())
        waited = [(key, holder) for key, holder in self._waiting() if self._is_gone(key, holder)]
        for key, holder in waited:
            on_lost(holder)
            self.store.delete(key)
        return [*(claim.holder for claim in lost), *(holder for _, holder in waited)]

    def _unreleased(self) -> list[Claim]:
        keys = set(self.store.list(self.folder))
        numbers = sorted(int(found[1]) for key in keys if (found := ENTRY.search(key)))
        claims = [
            self._claim(entry_in(self.store, self.folder, number))
            for number in numbers
            if _key(self.folder, number, "released") not in keys
        ]
        return [claim for claim in claims if claim is not None]

    def _is_lost(self, claim: Claim) -> bool:
        """One that ended in order is not: it is asked for last, since it may have ended meanwhile."""
        return not self.is_held(claim) and not self.store.exists(claim.key("released"))

    def _waiting(self) -> list[tuple[str, Holder]]:
        found = []
        for key in self.store.list(f"{self.folder}/{WAITING}"):
            try:
                holder = read_checked(self.store, key, Holder.model_validate_json)
            except ValidationError as error:
                raise IntegrityError(
                    f"{self.store.uri}/{key}: nobody who waits for a claim, of this version; expected what this "
                    "Frostline writes. Upgrade this machine, or delete the object: who waits writes it again."
                ) from error
            if holder is not None:  # else it holds a claim by now
                found.append((key, holder))
        return found

    def _is_gone(self, key: str, holder: Holder) -> bool:
        return died_here(holder) or self._silent_seconds(key) > self.pace.lease_seconds

    def _take(self, holder: Holder, policy: Policy, tell: Callable[[str], None]) -> Claim:
        place = f"{self.folder}/{WAITING}/{uuid.uuid4().hex}"
        try:
            return self._wait_and_take(holder, policy, tell, place)
        finally:
            with suppress(FrostlineError):
                self.store.delete(place)

    def _wait_and_take(self, holder: Holder, policy: Policy, tell: Callable[[str], None], place: str) -> Claim:
        told_of, seen_at = 0, -math.inf
        while True:
            newest = self.newest()
            if newest is None or not self.is_held(newest):
                claim = self._create(_number_of(newest) + 1, holder)
                if claim is not None:
                    return claim
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
            if time.monotonic() - seen_at >= self.pace.beat_seconds:
                seen_at = time.monotonic()
                self.store.write(place, _stamped(holder).model_dump_json().encode())
            time.sleep(self.pace.poll_seconds)

    def _create(self, number: int, holder: Holder) -> Claim | None:
        """Claim this number; None where another one has it."""
        stamped = _stamped(holder)
        if not create_in(self.store, self.folder, number, {"holder": stamped.model_dump()}):
            return None
        return Claim(self.store, self.folder, number, stamped)

    def _silent_seconds(self, *keys: str) -> float:
        """Since the newest of these was written, by the store's clock, which gives a new object the time of now."""
        now_key = f"{self.folder}/now-{uuid.uuid4().hex}"
        self.store.write(now_key, b"")
        try:
            times = {each.key: each.modified_at for each in self.store.objects(self.folder)}
        finally:
            self.store.delete(now_key)
        written = [times[key] for key in keys if key in times]
        if now_key not in times or not written:
            return 0.0  # a listing may be incomplete, and what was waiting at work by now: the next one tells
        return times[now_key] - max(written)

    def _beat(self, claim: Claim, over: threading.Event, give_way: GiveWay) -> None:
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
                give_way(claim.lost_to(newest))
                return
            if asked is not None and not has_asked:
                has_asked = True
                give_way(
                    Interrupted(f"asked to end, for {asked.decode()}. Start again to go on from there, if need be.")
                )


def _key(folder: str, number: int, name: str) -> str:
    """Of an object that belongs to claim `number`."""
    return f"{entry_key(folder, number).removesuffix('.json')}/{name}"


def _number_of(newest: Claim | None) -> int:
    """0 where there is none yet."""
    return newest.number if newest else 0


def _stamped(holder: Holder) -> Holder:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return holder.model_copy(update={"since": since, "token": uuid.uuid4().hex})
