"""What an operator reads when ranks are lost. The clock is the test's own."""

import pytest

from training import relay as module
from training.relay import Relay, last_line

WAITED = "Timed out waiting 15000ms for recv operation to complete"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic", made)
    return made


def three_ranks(clock: Clock, silent: int | None, seconds: float) -> Relay:
    """All beat once, and then all but one."""
    relay = Relay()
    for rank in range(3):
        relay.exchange(rank, None)
    clock.now += seconds
    for rank in {0, 1, 2} - {silent}:
        relay.exchange(rank, (5, 12, "loss 1.0") if rank == 0 else (0, 12, ""))
    return relay


def test_a_silent_rank_is_named_with_how_long_it_was_not_heard_of(clock: Clock) -> None:
    relay = three_ranks(clock, 1, 15.4)
    relay.lose({0: WAITED, 2: WAITED})
    told = f"rank 1 was not heard of for 15 s; rank 0 said: {WAITED}; rank 2 said: {WAITED}"
    assert relay.poll(False) == ((5, 12, "loss 1.0"), [told])


def test_a_dead_rank_comes_before_what_the_others_said_of_it(clock: Clock) -> None:
    relay = three_ranks(clock, 2, 4)
    relay.lose({0: "Connection reset by peer", 2: None})
    assert relay.losses() == ["rank 2 died; rank 0 said: Connection reset by peer"]


def test_a_rank_that_beats_and_does_not_join_the_others_is_named(clock: Clock) -> None:
    """Its process lives; its training does not."""
    relay = three_ranks(clock, None, 15)
    relay.lose({0: WAITED, 1: WAITED})
    assert relay.losses()[0].startswith("rank 2 lives and did not join the others; rank 0 said: Timed out")


def test_ranks_that_left_and_ranks_of_an_earlier_group_are_not_missed(clock: Clock) -> None:
    relay = three_ranks(clock, None, 0)
    relay.leave(1)
    clock.now += 60
    relay.lose({1: "out of memory"})
    relay.exchange(1, None)
    clock.now += 60
    relay.exchange(1, None)
    relay.lose({1: "out of memory"})
    assert relay.losses()[0] == (
        "rank 0 was not heard of for 60 s; rank 2 was not heard of for 60 s; rank 1 said: out of memory"
    )
    assert relay.losses()[1] == "rank 1 said: out of memory"


def test_once_asked_to_stop_all_ranks_hear_it() -> None:
    relay = Relay()
    assert not relay.exchange(0, None)
    relay.poll(True)
    relay.poll(False)
    assert relay.exchange(0, None) and relay.exchange(1, None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("Traceback\n  File\nRuntimeError: [/src/gloo/pair.cc:537] Read error. GLHF!\n"),
            "RuntimeError: Read error",
        ),
        (RuntimeError("[/src/gloo/pair.cc:537] Connection reset by peer. Check the logs."), "Connection reset by peer"),
        (
            type("WorkerHealthCheckFailedError", (Exception,), {})("A worker health check failed.\nThe actor is dead."),
            None,
        ),
    ],
)
def test_of_a_ranks_error_one_sentence_is_told(error: Exception, told: str | None) -> None:
    assert module._told(error) == told
    assert last_line(ValueError()) == "ValueError"
