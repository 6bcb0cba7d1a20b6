"""Promotion, rollback and aliases against a real MLflow on SQLite and a real store."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import promote_program
import pytest
from forge import Forge
from promote_program import try_to_promote
from registered import Model

from infra import log
from infra.errors import ConfigError, IntegrityError
from infra.outputs import Manifest, upload_part
from infra.tracking import Registry, listing_of
from training.champion import mirror
from training.comparison import compare
from training.export import export
from training.ledger import head, history
from training.package import CARD, SCRIPT, TRAINABLES
from training.promoting import promote, rollback
from training.version import ensure_version

NUM_RACERS, NUM_ROUNDS = 16, 5


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    with Forge("promote_program", "everything") as found:
        yield found


def test_a_rollback_restores_the_former_champion_and_a_second_one_goes_on_backwards(model: Model) -> None:
    for version in ("1", "2", "3"):
        model.add()
        assert model.promote(version)
    assert model.aliases == {"champion": "3", "previous": "2"}
    assert not model.promote("3"), "it is the champion already"
    assert rollback(model.place, "worse at night").entry.version == "2"
    assert model.aliases == {"champion": "2", "previous": "1"}
    rollback(model.place, None)
    assert model.aliases == {"champion": "1"}
    with pytest.raises(ConfigError, match=r"there is no former champion \(version 1 is the first one\)"):
        rollback(model.place, None)
    assert model.told[3:] == [("rollback", "2", "3"), ("rollback", "1", "2")]
    reasons = history(model.place.store, model.place.model_name)[3].reasons
    assert reasons == ["rolled back from version 3, which entry 3 made champion: worse at night"]
    assert model.promote("3")
    assert model.aliases == {"champion": "3", "previous": "1"}


def test_what_the_gate_refused_or_never_saw_is_promoted_by_force_only(model: Model) -> None:
    model.add(alias=None)
    with pytest.raises(ConfigError, match=r"the gate refused it \(cider_d is below the required 0.5\).*--force"):
        model.promote("1")
    model.add(decided=False)
    with pytest.raises(ConfigError, match="the gate has not decided about this model"):
        model.promote("2")
    assert (model.told, model.aliases) == ([], {})
    assert model.promote("1", force=True)
    entry = head(model.place.store, model.place.model_name)
    assert entry is not None and entry.reasons == [
        "promoted by hand: because",
        "forced, although the gate refused it (cider_d is below the required 0.5)",
    ]


def test_a_challenger_that_serves_challenges_no_more(model: Model) -> None:
    model.add()
    model.place.registry.set_alias(model.place.model_name, "challenger", "1")
    assert model.promote("challenger")
    assert model.aliases == {"champion": "1"}


def test_an_alias_moved_by_hand_is_entered_as_that(model: Model) -> None:
    model.add(), model.add()
    model.promote("1")
    model.move("2")
    mirror(model.place)
    mirror(model.place)
    assert model.told == [("promoted_by_hand", "1", None), ("alias_moved_by_hand", "2", "1")]
    assert model.aliases == {"champion": "2", "previous": "1"}
    # Back to the former champion: the aliases had been set since it served, so this is no crash.
    model.move("1")
    mirror(model.place)
    assert model.told[2:] == [("alias_moved_by_hand", "1", "2")]
    rollback(model.place, None)
    assert model.aliases == {"champion": "2", "previous": "1"}
    # Whoever changes the champion next looks first.
    model.add()
    model.move("3")
    model.promote("1")
    assert model.told[4:] == [("alias_moved_by_hand", "3", "2"), ("promoted_by_hand", "1", "3")]


def test_an_alias_that_was_removed_is_set_again(model: Model) -> None:
    model.add()
    model.promote("1")
    model.place.registry.delete_alias(model.place.model_name, "champion")
    mirror(model.place)
    assert (model.aliases, len(model.told)) == ({"champion": "1"}, 1)


def test_an_alias_moved_to_what_may_not_serve_is_refused_until_it_is_removed(model: Model) -> None:
    model.add()
    model.promote("1")
    altered = model.file(model.add(), f"artifacts/package/{TRAINABLES}")
    altered.write_bytes(altered.read_bytes() + b"?")
    model.move("2")
    with pytest.raises(IntegrityError, match=r"the alias champion is on version 2.*moved by hand.*Remove the alias"):
        rollback(model.place, None)
    model.place.registry.delete_alias(model.place.model_name, "champion")
    mirror(model.place)
    assert (model.aliases, len(model.told)) == ({"champion": "1"}, 1)


ALTERATIONS = {
    f"{TRAINABLES}: found sha256": lambda path: (path / "artifacts/package" / TRAINABLES).open("ab").write(b"x"),
    f"{CARD}: not a whole": lambda path: (path / "artifacts/package" / CARD).open("ab").write(b" x"),
    f"{SCRIPT} was altered": lambda path: (path / SCRIPT).open("ab").write(b"\n"),
    "MLmodel was altered": lambda path: _replace(
        path / "MLmodel", "loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: evil"
    ),
    "python_model.pkl was added": lambda path: (path / "python_model.pkl").write_bytes(b"pickle"),
    "requirements.txt was lost": lambda path: (path / "requirements.txt").unlink(),
    "__pycache__ was lost": lambda path: _plant_bytecode(path),
    "artifacts/package/__pycache__/model.pyc was added": lambda path: _plant_bytecode(path / "artifacts/package"),
}


def _plant_bytecode(folder: Path) -> None:
    (folder / "__pycache__").unlink(missing_ok=True)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"bytecode")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_version_whose_files_were_altered_after_registration_is_refused_and_the_file_named(
    model: Model, tmp_path: Path
) -> None:
    folder = model.file(model.add(), "")
    model.add()
    model.promote("2")
    shutil.copytree(folder, tmp_path / "whole")
    for told, alter in ALTERATIONS.items():
        alter(folder)
        with pytest.raises(IntegrityError, match=rf"{told}.*register the model anew"):
            model.promote("1", force=True)
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
    client = model.place.registry._client
    client.set_model_version_tag(model.place.model_name, "1", "frostline.files", "?")
    with pytest.raises(IntegrityError, match="the list of its files was altered"):
        model.promote("1", force=True)
    client.set_model_version_tag(model.place.model_name, "1", "frostline.files", listing_of(folder))
    assert len(model.told) == 1
    assert model.promote("1")


def test_a_version_whose_files_a_second_start_wrote_anew_may_serve(model: Model) -> None:
    """The first start died before its end; the files of the second have other times and temporary paths in them."""
    version = model.add()
    first = model.file(version, "MLmodel").read_text()
    model.place.registry._client.delete_model_version_tag(model.place.model_name, "1", "frostline.complete")
    ensure_version(
        model.place.registry, model.place.model_name, model.world.parts, model.world.evaluation, model.workspace
    )
    assert model.file(version, "MLmodel").read_text() != first
    assert model.promote("1")


def test_one_training_under_two_names_serves_under_both(model: Model) -> None:
    other = Model(model.world, model.workspace, f"{model.place.model_name}-2")
    model.add(), other.add()
    assert model.promote("1") and other.promote("1")


def test_parameters_whose_tags_were_altered_too_are_refused_by_the_store(model: Model) -> None:
    """Another version's files and tags under this version's training."""
    first, second = model.add(), model.add()
    client = model.place.registry._client
    for tag in ("frostline.train_fingerprint", "model_digest"):
        client.set_model_version_tag(model.place.model_name, "1", tag, second.tags[tag])
    with pytest.raises(IntegrityError, match="as trained"):
        model.promote("1", force=True)
    client.set_model_version_tag(model.place.model_name, "1", "model_digest", first.tags["model_digest"])
    with pytest.raises(IntegrityError, match="no training that gave this version"):
        model.promote("1", force=True)


def test_an_export_goes_into_an_empty_folder_only_and_whole(model: Model, tmp_path: Path) -> None:
    version, folder = model.add(), tmp_path / "exported"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(ConfigError, match="something is there"):
        export(model.place.registry, version, model.workspace.cache, folder)
    altered = model.file(version, f"artifacts/package/{TRAINABLES}")
    altered.write_bytes(altered.read_bytes() + b"?")
    with pytest.raises(IntegrityError, match=TRAINABLES):
        export(model.place.registry, version, model.workspace.cache, tmp_path / "other")
    assert not (tmp_path / "other").exists() and [path.name for path in folder.iterdir()] == ["mine"]


def test_an_export_takes_the_adapter_of_peft_along(model: Model, tmp_path: Path) -> None:
    (tmp_path / "adapter").write_text("{}")
    part = upload_part(model.place.store, "train", tmp_path / "adapter", "peft", 0, name="peft/adapter_config.json")
    train = model.world.parts.train
    draft = train.draft.model_copy(update={"parts": [*train.parts, part]})
    made = Manifest.model_validate(train.model_dump(exclude={"digest"}) | {"draft": draft.model_dump()})
    model.world = replace(model.world, parts=replace(model.world.parts, train=made))
    export(model.place.registry, model.add(), model.workspace.cache, tmp_path / "exported")
    assert (tmp_path / "exported" / "peft" / "adapter_config.json").read_text() == "{}"


def test_two_versions_are_compared_on_the_same_test_rows_or_said_not_to_be(model: Model) -> None:
    model.add(), model.add()
    found = compare(model.place, "1", "2")
    assert found.scored_alike and found.differences == {"vqa_accuracy": pytest.approx(0.01)}
    assert (found.a.version, found.b.control) == ("1", {"vqa_accuracy": 0.3})
    third = model.add()
    (entry,) = log.entries(model.place.store, "evaluate", third.tags["model_digest"])
    key = f"evaluate/{entry['fingerprint']}/manifest.json"
    stored = model.place.store.read(key)
    assert stored is not None
    made = Manifest.model_validate_json(stored)
    other = Manifest.model_validate(
        made.model_dump(exclude={"digest"}) | {"inputs": {**made.inputs, "test_digest": "f" * 64}}
    )
    model.place.store.write(key, other.model_dump_json().encode())
    apart = compare(model.place, "1", "3")
    assert (apart.scored_alike, apart.differences) == (False, {})
    with pytest.raises(ConfigError, match="version '9' was not found"):
        compare(model.place, "1", "9")


POINTS = ["after | ledger append | 1", "after | mirror announce | 1", "before | mirror mark | 1",
          "after | mirror mark | 1", "after | mirror withdraw | 1"]  # fmt: skip


@pytest.mark.slow
def test_a_process_killed_between_ledger_and_alias_is_repaired_by_the_next_command(model: Model, forge: Forge) -> None:
    """By SIGKILL, at each point between the entry and the end. Nothing of it is taken for a person's doing."""
    for _ in range(2):
        model.add()
    model.promote("1")
    where = (model.place.store.uri, model.place.registry.uri, model.place.model_name)
    for number, point in enumerate(POINTS):
        version = str(2 - number % 2)
        assert forge.run("promote", *where, version, FAULT_AT=f"{point} | ") == -9, point
        assert forge.run("look", *where) == 0
        entry = head(model.place.store, model.place.model_name)
        assert entry is not None and (entry.number, entry.version) == (number + 2, version)
        assert model.aliases["champion"] == version
    assert {kind for kind, _, _ in model.told} == {"promoted_by_hand"}


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


class Late(Registry):
    """Held up between reading the ledger and setting the alias: the rest of the world goes on."""

    def __init__(self, model: Model, world_looks: bool) -> None:
        super().__init__(model.place.registry.uri)
        self.model, self.world_looks, self.is_held_up = model, world_looks, True

    def set_alias(self, name: str, alias: str, version: str) -> None:
        held_up, self.is_held_up = self.is_held_up and alias == "champion", False
        if held_up:
            self.model.promote("3")
        super().set_alias(name, alias, version)
        if held_up and self.world_looks:
            assert self.model.aliases["champion"] == "2"
            mirror(self.model.place)


@pytest.mark.parametrize("world_looks", [False, True])
def test_a_slow_promoter_does_not_leave_its_outdated_alias_and_is_not_taken_for_a_person(
    model: Model, world_looks: bool
) -> None:
    for _ in range(3):
        model.add()
    model.promote("1")
    promote(replace(model.place, registry=Late(model, world_looks)), "2", None, force=False)
    assert model.told[1:] == [("promoted_by_hand", "2", "1"), ("promoted_by_hand", "3", "2")]
    assert model.aliases == {"champion": "3", "previous": "2"}


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
