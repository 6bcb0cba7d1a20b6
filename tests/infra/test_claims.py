"""One holder at a time; what died or hangs is replaced; who lost a claim is told."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from infra.claims import Claim, Claims, Pace, Policy
from infra.errors import ClaimLost, Held, IntegrityError, PlatformError
from infra.holders import this_process
from infra.log import create_in
from infra.store import LocalStore

PACE = Pace(beat_seconds=0.05, lease_seconds=1.0, poll_seconds=0.02)
FOLDER = "register/claims/tiny"
REPOSITORY = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from infra.claims import Claims, Pace
from infra.holders import this_process
from infra.store import LocalStore
claims = Claims(LocalStore(Path(sys.argv[1])), "register/claims/tiny", Pace(0.05, 1.0, 0.02))
with claims.held(this_process("the other retrain"), "queue", print, print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(LocalStore(tmp_path), FOLDER, PACE)


def hold(claims: Claims, policy: Policy = "queue", told: list[str] | None = None) -> AbstractContextManager[Claim]:
    said = [] if told is None else told
    return claims.held(this_process("retrain of tiny"), policy, said.append, lambda why: said.append(str(why)))


@contextmanager
def another_process(store: Path) -> Iterator[subprocess.Popen[str]]:
    """One that has a claim on the name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_numbers_grow_from_claim_to_claim(claims: Claims) -> None:
    numbers = []
    for _ in range(3):
        with hold(claims) as claim:
            claim.check()
            numbers.append(claim.number)
    assert numbers == [1, 2, 3]


def test_twenty_at_once_hold_it_one_after_the_other(claims: Claims) -> None:
    inside, most, lock, numbers = 0, 0, threading.Lock(), []

    def work(_: int) -> None:
        nonlocal inside, most
        with hold(claims) as claim:
            with lock:
                inside += 1
                most = max(most, inside)
                numbers.append(claim.number)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))
    assert most == 1
    assert numbers == list(range(1, 21))


def test_skip_names_who_is_at_work(claims: Claims, tmp_path: Path) -> None:
    with (
        another_process(tmp_path) as other,
        pytest.raises(Held, match=rf"the other retrain on .* \(pid {other.pid}\)"),
        hold(claims, "skip"),
    ):
        pass
    with hold(claims, "skip") as claim:
        assert claim.number == 2


def test_a_holder_that_was_killed_on_this_machine_costs_no_lease(claims: Claims, tmp_path: Path) -> None:
    patient = Claims(claims.store, FOLDER, Pace(0.05, lease_seconds=3600, poll_seconds=0.02))
    with another_process(tmp_path) as other:
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and its parent has not asked yet
        with hold(patient, "skip") as claim:
            assert claim.number == 2
        other.wait()
        with hold(patient, "skip") as claim:
            assert claim.number == 3


def test_a_holder_that_hangs_longer_than_the_lease_is_replaced_and_told_when_it_wakes(
    claims: Claims, tmp_path: Path
) -> None:
    with another_process(tmp_path) as other:
        stale = claims.newest()
        assert stale is not None
        os.kill(other.pid, signal.SIGSTOP)
        with hold(claims) as claim:
            assert claim.number == 2
            os.kill(other.pid, signal.SIGCONT)
            with pytest.raises(ClaimLost, match=r"retrain of tiny .* has claim 2"):
                stale.check()
            assert other.stdout is not None
            assert "nothing was heard of this process for too long" in other.stdout.readline()
            claim.check()


def test_a_holder_that_is_heard_keeps_its_claim_for_longer_than_the_lease(claims: Claims, tmp_path: Path) -> None:
    with another_process(tmp_path):
        time.sleep(2 * PACE.lease_seconds)
        with pytest.raises(Held), hold(claims, "skip"):
            pass


def test_replace_asks_the_holder_to_end_and_waits_for_it(claims: Claims) -> None:
    asked, ended, told = threading.Event(), threading.Event(), []

    def holder() -> None:
        with claims.held(this_process("the first"), "queue", told.append, lambda _: asked.set()):
            asked.wait(20)
            time.sleep(2 * PACE.lease_seconds)  # a checkpoint takes its time, and it is heard of meanwhile
            ended.set()

    thread = threading.Thread(target=holder)
    thread.start()
    while claims.newest() is None:
        time.sleep(0.01)
    with hold(claims, "replace", told) as claim:
        assert ended.is_set()
        assert claim.number == 2
    thread.join()
    assert any("the first" in line and "asked it to end" in line for line in told)


def test_a_store_without_leftovers_has_one_object_per_claim_and_its_end(claims: Claims) -> None:
    with hold(claims):
        pass
    assert [key.removeprefix(f"{FOLDER}/") for key in claims.store.list(FOLDER)] == [
        "00000001.json",
        "00000001/released",
    ]


def reaped(claims: Claims) -> list[str]:
    return [holder.what for holder in claims.reap(this_process("the reaper"), lambda _: None)]


def test_the_reaper_frees_what_a_killed_process_held_and_no_late_word_of_it_counts(
    claims: Claims, tmp_path: Path
) -> None:
    with another_process(tmp_path) as other:
        lost = claims.newest()
        assert lost is not None
        assert reaped(claims) == []
        other.kill()
        other.wait()
    assert reaped(claims) == ["the other retrain"]
    assert reaped(claims) == []
    with pytest.raises(ClaimLost, match=r"the reaper on .* has claim 2"):
        lost.check()
    with hold(claims, "skip") as claim:
        assert claim.number == 3


def test_the_reaper_takes_a_process_that_hangs_past_its_lease_for_lost(claims: Claims, tmp_path: Path) -> None:
    with another_process(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while not (found := reaped(claims)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found == ["the other retrain"]
        other.send_signal(signal.SIGCONT)
        assert other.stdout is not None
        assert "nothing was heard of this process for too long" in other.stdout.readline()


def test_the_reaper_finds_who_died_while_it_waited_and_leaves_who_waits(claims: Claims, tmp_path: Path) -> None:
    waits = HOLD.replace('"queue", print', '"queue", lambda told: print(told, flush=True)')
    with hold(claims):
        waiting = subprocess.Popen(
            [sys.executable, "-c", waits, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        try:
            assert waiting.stdout is not None
            assert "waiting for its end" in waiting.stdout.readline()
            deadline = time.monotonic() + 20
            while not list((tmp_path / FOLDER / "waiting").glob("*")) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert reaped(claims) == []
        finally:
            waiting.kill()
            waiting.wait()
        assert reaped(claims) == ["the other retrain"]
        assert reaped(claims) == []


def test_who_ended_in_order_is_not_reaped(claims: Claims) -> None:
    with hold(claims):
        pass
    assert reaped(claims) == []


def test_what_could_not_be_told_is_reaped_again(claims: Claims, tmp_path: Path) -> None:
    with another_process(tmp_path) as other:
        other.kill()
        other.wait()

    def away(_: object) -> None:
        raise PlatformError("Prefect is away")

    with pytest.raises(PlatformError):
        claims.reap(this_process("the reaper"), away)
    assert reaped(claims) == ["the other retrain"]


def test_a_claim_of_a_newer_form_is_told_as_such(claims: Claims) -> None:
    holder = {**this_process("retrain of tiny").model_dump(), "mood": "good"}
    assert create_in(claims.store, FOLDER, 1, {"holder": holder})
    with pytest.raises(IntegrityError, match=r"00000001\.json: no claim of this version.*Upgrade"):
        claims.newest()


def test_one_who_waits_of_a_newer_form_is_told_as_such(claims: Claims) -> None:
    claims.store.write(f"{FOLDER}/waiting/x", b'{"mood": "good"}')
    with pytest.raises(IntegrityError, match=r"waiting/x: nobody who waits.*delete the object"):
        reaped(claims)
