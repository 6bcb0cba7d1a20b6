"""`verify`, `gc` and `explain` as an operator meets them. The store is filled by hand: no engine is started."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.explain import explain, show_explanation
from infra.errors import ConfigError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output
from infra.remaining import find_remaining
from infra.store import LocalStore

FROSTLINE = str(Path(sys.executable).parent / "frostline")


def frostline(var: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FROSTLINE_VAR_DIR": str(var)}
    return subprocess.run([FROSTLINE, *arguments], env=environment, capture_output=True, text=True, timeout=60, cwd=var)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def made(
    store: LocalStore, step: str, config: Mapping[str, Any], inputs: Mapping[str, str], contents: list[str]
) -> Manifest:
    """An output of recipe `weekly` with a part for each content."""

    def part(attempt: Attempt, content: str) -> Part:
        path = store.folder.with_name("part")
        path.write_text(content)
        return attempt.add_part(path, "file", 1, name=content)

    def produce(attempt: Attempt) -> Draft:
        remaining = find_remaining(store, step, attempt.request.fingerprint)
        there = {part.name: part for part in remaining.parts} if remaining else {}
        parts = [there.get(content) or part(attempt, content) for content in contents]
        return Draft(parts=parts, identity={"dataset_digest": parts[-1].digest}, counts={"rows_out": len(parts)})

    return ensure_output(store, OutputRequest(step, 1, "weekly", config, inputs), produce, {})[0]


@pytest.fixture
def week(store: LocalStore) -> dict[str, Manifest]:
    """Two weeks of a recipe: in the second its data grew."""
    first = made(store, "ingest", {"images_per_shard": 4}, {"source_listing": "a" * 64}, ["one"])
    dataset = {"dataset_digest": first.identity["dataset_digest"]}
    features = made(store, "featurize", {"layer": -1}, dataset, ["one features"])
    second = made(store, "ingest", {"images_per_shard": 8}, {"source_listing": "b" * 64}, ["one", "two"])
    grown = {"dataset_digest": second.identity["dataset_digest"]}
    more = made(store, "featurize", {"layer": -1}, grown, ["one features", "two features"])
    return {"first": first, "features": features, "second": second, "more": more}


def test_explain_names_the_field_and_the_input_that_changed(store: LocalStore, week: dict[str, Manifest]) -> None:
    found = explain(store, "weekly/ingest")
    assert found.output == f"ingest/{week['second'].fingerprint}"
    assert found.compared_with == f"ingest/{week['first'].fingerprint}"
    assert [(change.name, change.kind) for change in found.changed] == [
        ("ingest.images_per_shard", "field"),
        ("source_listing", "input"),
    ]
    assert (found.changed[0].before, found.changed[0].now) == (4, 8)
    assert (found.num_parts, found.num_parts_taken_over) == (2, 1)
    assert found.counts == {"rows_out": 2}


def test_explain_names_the_output_that_an_input_came_from(store: LocalStore, week: dict[str, Manifest]) -> None:
    found = explain(store, f"featurize/{week['more'].fingerprint}")
    (one,) = found.inputs
    assert (one.name, one.output) == ("dataset_digest", f"ingest/{week['second'].fingerprint}")
    assert [change.name for change in found.changed] == ["dataset_digest"]
    assert "dataset_digest" in found.reason


def test_explain_compares_with_what_came_before_and_not_with_the_newest(
    store: LocalStore, week: dict[str, Manifest]
) -> None:
    found = explain(store, week["features"].fingerprint[:10])
    assert found.output == f"featurize/{week['features'].fingerprint}"
    assert (found.compared_with, found.changed) == (None, [])
    assert found.reason == "the recipe had no earlier output of this step"


def test_explain_tells_it_in_words(store: LocalStore, week: dict[str, Manifest]) -> None:
    console = Console(record=True, width=200)
    show_explanation(console, explain(store, "weekly/ingest"))
    told = console.export_text()
    assert "ingest.images_per_shard: 4 → 8" in told
    assert "parts     2, 1 of them taken over" in told


@pytest.mark.parametrize("named", ["monthly/ingest", "ingest/ffff", "", "zz", "weekly/nothing"])
def test_explain_refuses_what_names_no_output(store: LocalStore, week: dict[str, Manifest], named: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        explain(store, named)


def test_explain_names_the_steps_where_another_word_was_found(store: LocalStore, week: dict[str, Manifest]) -> None:
    with pytest.raises(ConfigError, match=r"'training' is no step and no fingerprint; expected .* train,"):
        explain(store, "weekly/training")


def test_explain_command_gives_its_contract(tmp_path: Path, week: dict[str, Manifest]) -> None:
    done = frostline(tmp_path, "explain", "weekly/featurize", "--json")
    assert json.loads(done.stdout)["output"] == f"featurize/{week['more'].fingerprint}"
    assert frostline(tmp_path, "explain", "nothing").returncode == ConfigError.exit_code


def test_verify_repair_and_the_next_run_make_one_part(
    tmp_path: Path, store: LocalStore, week: dict[str, Manifest]
) -> None:
    part = week["more"].parts[1]
    (store.folder / "featurize" / "parts" / part.digest).write_text("damaged")
    done = frostline(tmp_path, "verify")
    assert done.returncode == 4
    assert f"featurize/parts/{part.digest}: found 7 bytes with sha256" in done.stdout
    assert f"expected file with sha256 {part.digest}" in done.stdout
    done = frostline(tmp_path, "verify", "--repair", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert [damage["file"] for damage in told["damaged"]] == [f"featurize/parts/{part.digest}"]
    assert told["to_make_again"] == ["recipe weekly, featurize: 1 of 2 parts"]
    inputs = week["more"].inputs
    again = made(store, "featurize", {"layer": -1}, inputs, ["one features", "two features"])
    assert again.parts == week["more"].parts
    assert frostline(tmp_path, "verify").returncode == 0


def test_gc_only_lists_until_it_is_told_to_delete(tmp_path: Path, store: LocalStore, week: dict[str, Manifest]) -> None:
    store.write(f"train/parts/{'c' * 64}", b"of no output")
    os.utime(store.folder / "train" / "parts" / ("c" * 64), (0, 0))
    before = store.list("")
    listed = json.loads(frostline(tmp_path, "gc", "--json").stdout)
    assert [found["key"] for found in listed["garbage"]["parts"]] == [f"train/parts/{'c' * 64}"]
    assert not listed["deleted"]
    assert store.list("") == before
    done = frostline(tmp_path, "gc", "--delete", "--grace", "30d")
    assert "parts" in done.stdout and "12" in done.stdout
    assert sorted({*before} - {*store.list("")}) == [f"train/parts/{'c' * 64}"]
    assert frostline(tmp_path, "verify").returncode == 0


def test_a_grace_period_without_a_unit_is_refused(tmp_path: Path, week: dict[str, Manifest]) -> None:
    done = frostline(tmp_path, "gc", "--grace", "7")
    assert done.returncode == ConfigError.exit_code
    assert "expected a whole number and a unit" in done.stderr
