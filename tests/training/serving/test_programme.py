"""The whole programme against a running server: ten thousand requests, a thousand malformed ones, killed replicas."""

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from captions import assert_each_answer_is_its_versions, captions_asked, swap_under_load
from load import put_load
from malformed import CASES, send_malformed
from running_server import Running
from served_model import Server, serving

pytestmark = pytest.mark.faults
NUM_MALFORMED, SENDERS = 1000, 8
GROWTH = 1.1


def test_ten_thousand_requests_and_a_moved_alias_without_a_failure(running: Any) -> None:
    load = swap_under_load(running, "2", num_requests=10_000, clients=32)
    try:
        assert len(load.answers) >= 10_000
        assert not load.failed, load.failed[0]
        assert assert_each_answer_is_its_versions(load, running) == {"1", "2"}
    finally:
        swap_under_load(running, "1", num_requests=100)


def test_a_thousand_malformed_requests_cost_no_memory(running: Any) -> None:
    """Many at a time; the first tenth fills what is filled once."""
    chosen = random.Random(0)
    cases = [chosen.choice(CASES) for _ in range(NUM_MALFORMED)]

    def send(case: Any) -> tuple[Any, tuple[int, str]]:
        return case, send_malformed(running.server, running.pictures[0], case)

    with ThreadPoolExecutor(SENDERS) as pool:
        answered = list(pool.map(send, cases[: NUM_MALFORMED // 10]))
        before = resident_bytes(running)
        answered += pool.map(send, cases[NUM_MALFORMED // 10 :])
    assert resident_bytes(running) < GROWTH * before
    wrong = [(case.name, got) for case, got in answered if got != (case.status, case.code)]
    assert len(answered) == NUM_MALFORMED and not wrong, wrong[:5]
    assert running.post("/v1/caption", files={"image": running.pictures[0]}).status_code == 200


def resident_bytes(running: Any) -> int:
    """Of the door and its decoders; what replicas take is theirs."""
    door = psutil.Process(running.server.pid)
    decoders = [one for one in door.children() if "data_prep.decode_worker" in one.cmdline()]
    return sum(int(one.memory_info().rss) for one in [door, *decoders])


def test_a_killed_replica_and_a_killed_decoder_cost_no_request(running: Any) -> None:
    door = psutil.Process(running.server.pid)

    def kill(name: str) -> None:
        (victim, *_) = [one for one in door.children(recursive=True) if name in " ".join(one.cmdline())]
        victim.send_signal(signal.SIGKILL)

    timers = [
        threading.Timer(2, kill, ["data_prep.decode_worker"]),
        threading.Timer(4, kill, ["ServeReplica"]),
    ]
    for timer in timers:
        timer.start()
    load = put_load(running.server.url, captions_asked(running, 1500), 8, running.server.headers)
    assert all(not timer.is_alive() for timer in timers), "the load ended before anything was killed"
    assert not load.failed, load.failed[0]


def test_load_brings_another_replica_and_no_more_than_the_bounds_allow(served_model: Any, tmp_path: Path) -> None:
    bounds = ["--set", "replicas.max_replicas=2", "--set", "replicas.target_ongoing_requests=2"]
    with serving(served_model, tmp_path / "log", bounds) as server:
        running = Running(served_model, server, served_model.pictures())
        counts = [num_replicas(server)]
        deadline = time.monotonic() + 180
        while counts[-1] < 2:
            assert time.monotonic() < deadline, counts
            load = put_load(server.url, captions_asked(running, 300), 16, server.headers)
            assert not load.failed, load.failed[0]
            counts.append(num_replicas(server))
        assert counts[0] == 1 and max(counts) == 2


def num_replicas(server: Server) -> int:
    started = psutil.Process(server.pid).children(recursive=True)
    return sum("ServeReplica" in " ".join(one.cmdline()) for one in started)
