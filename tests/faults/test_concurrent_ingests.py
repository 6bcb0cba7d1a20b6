"""Ingests of one recipe name that run at the same time in one store, each a process with a cache of its own.

Shown to fail: where `commit` returned its own manifest to whoever came second, the sixteen named several datasets;
where neither `log_commit` nor `append` looked for an equal entry, the log had several; where all attempts shared one
journal, an increment took over the shards of another.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from feeds import PICTURES, Line, captions, later_feeds, write_feed
from forge import Forge

from infra import log
from infra.outputs import Manifest
from infra.store import LocalStore
from infra.verify import manifests, verify_store

NUM_RACERS = 16
INCREMENTS = ((3, 4), (4, 7), (7, 11), (11, 14))
"""Which pictures each of four writers adds to the first three."""


def race(forge: Forge, folder: Path, sources: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What became of an ingest of each of these at the same time into `folder/store`."""
    folder.mkdir(exist_ok=True)
    runs = [[str(folder / f"{n}"), each, str(folder / f"{n}"), str(folder / "store")] for n, each in enumerate(sources)]
    assert forge.run("race", runs) == 0
    found = [json.loads((folder / f"{number}.json").read_text()) for number in range(len(sources))]
    assert not [told for told in found if "error" in told]
    return found


def committed(store: LocalStore) -> dict[str, Manifest]:
    """By fingerprint. The store is whole, and each output is logged once."""
    assert verify_store(store).damaged == []
    found = {made.fingerprint: made for _, made in manifests(store) if isinstance(made, Manifest)}
    logged = [entry["fingerprint"] for entry in log.entries(store, "ingest", "demo")]
    assert sorted(logged) == sorted(found)
    return found


def meaning(draft: dict[str, Any]) -> dict[str, Any]:
    return {name: draft[name] for name in ("identity", "counts", "facts")}


def check_one_recipe(forge: Forge, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    told = race(forge, folder, [later_feeds(folder)] * NUM_RACERS)
    store = LocalStore(folder / "store")
    ((fingerprint, made),) = committed(store).items()
    assert {(one["fingerprint"], one["manifest"]) for one in told} == {(fingerprint, made.digest)}
    assert made.counts["rows_in"] == 27
    parts = {key.rpartition("/")[2] for key in store.list("ingest/parts")}
    assert parts == {part.digest for part in made.parts}, "sixteen writers made other parts than one"
    store.delete("ingest/log/demo")  # as if the writer had died between the manifest and its log
    race(forge, folder, [later_feeds(folder)] * NUM_RACERS)
    assert committed(store).keys() == {fingerprint}


def check_increments(forge: Forge, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

    def feed(name: str, numbers: range) -> dict[str, Any]:
        lines: list[Line] = [*captions(*range(3)), *captions(*numbers)]
        return write_feed(folder / name, lines, PICTURES, 1)

    first = [feed("first", range(0))]
    race(forge, folder, [first])
    several = [[feed(f"add-{start}", range(start, stop))] for start, stop in INCREMENTS]
    told = race(forge, folder, several)
    found = committed(LocalStore(folder / "store"))
    assert found.keys() > {one["fingerprint"] for one in told}
    together = [source for sources in several for source in sources]
    told += race(forge, folder, [together])
    for number, (sources, one) in enumerate(zip([*several, together], told, strict=True)):
        (scratch,) = race(forge, folder / f"scratch-{number}", [sources])
        assert one["fingerprint"] == scratch["fingerprint"]
        assert meaning(one["draft"]) == meaning(scratch["draft"])
    committed(LocalStore(folder / "store"))


@pytest.mark.slow
def test_sixteen_ingests_of_one_recipe_make_one_dataset(ingest_forge: Forge, tmp_path: Path) -> None:
    check_one_recipe(ingest_forge, tmp_path / "race")


@pytest.mark.slow
def test_concurrent_increments_of_one_recipe_are_each_as_if_alone(ingest_forge: Forge, tmp_path: Path) -> None:
    check_increments(ingest_forge, tmp_path / "race")


@pytest.mark.faults
def test_sixteen_ingests_of_one_recipe_make_one_dataset_every_time(ingest_forge: Forge, tmp_path: Path) -> None:
    for _ in range(30):
        check_one_recipe(ingest_forge, tmp_path / "race")


@pytest.mark.faults
def test_concurrent_increments_are_each_as_if_alone_every_time(ingest_forge: Forge, tmp_path: Path) -> None:
    for _ in range(30):
        check_increments(ingest_forge, tmp_path / "race")
