"""Many promoters at the same time."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import promote_program
import pytest
from promote_program import try_to_promote
from registered_model import Model

from training.ledger import head, history

NUM_RACERS, NUM_ROUNDS = 16, 5


def test_sixteen_promoters_leave_one_entry_per_number_and_aliases_that_follow(model: Model) -> None:
    versions = [model.add().version for _ in range(3)]
    for number in range(NUM_ROUNDS):
        asked = [versions[(racer + number) % len(versions)] for racer in range(NUM_RACERS)]
        before = len(model.told)
        with ThreadPoolExecutor(NUM_RACERS) as pool:
            made = list(pool.map(lambda version: try_to_promote(model.place, version), asked))
        won = [change.entry for change in made if change and change.changed]
        entries = history(model.place.store, model.place.model_name)[before:]
        assert sorted(won, key=lambda entry: entry.number) == entries
        assert model.aliases["champion"] == entries[-1].version
    assert {kind for kind, _, _ in model.told} == {"promoted_by_hand"}, "no racer is taken for a person"


@pytest.mark.faults
def test_sixteen_processes_promote_in_a_hundred_rounds(model: Model, tmp_path: Path) -> None:
    versions = [model.add().version for _ in range(3)]
    where = [model.place.store.uri, model.place.registry.uri, model.place.model_name, str(tmp_path)]
    program = str(Path(promote_program.__file__))
    racers = [
        subprocess.Popen(
            [sys.executable, program, *where, str(racer), "100", *versions],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for racer in range(NUM_RACERS)
    ]  # fmt: skip
    try:
        for number in range(101):
            while len(list(tmp_path.glob(f"ready-{number}-*"))) < NUM_RACERS:
                assert all(racer.poll() in (None, 0) for racer in racers), [r.communicate()[1][-800:] for r in racers]
                time.sleep(0.01)
            now = head(model.place.store, model.place.model_name)
            assert now is None or model.aliases["champion"] == now.version
            (tmp_path / f"go-{number}").touch()
        won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    entries = history(model.place.store, model.place.model_name)
    assert sorted(number for numbers in won for number in numbers) == [entry.number for entry in entries]
    assert len(entries) >= 100
    assert {entry.kind for entry in entries} == {"promoted_by_hand"}, "no racer is taken for a person"
