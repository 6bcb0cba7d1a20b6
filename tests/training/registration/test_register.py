"""The step against a real MLflow on SQLite."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registering import RULE, Places

from data_prep.reencode import Reencode
from infra.claims import Claims
from infra.errors import ClaimLost, IntegrityError
from infra.holders import this_process
from infra.log import create_in
from infra.outputs import Manifest, manifest_key, part_key, upload_part
from infra.part_cache import PartCache
from infra.tracking import PACKAGE_PATH, changed_file
from training.candidate import FILES_TAG
from training.champion_scores import champion_evaluation, champion_scores
from training.ledger import head, history
from training.predictor import Predictor, fetch_package
from training.promotion_rule import ControlMargin

BLIND = RULE.model_copy(update={"control_margins": {"vqa_accuracy": ControlMargin(minimum_difference=0.9)}})
"""Refuses the model of these tests, which differs by 0.5."""


def test_the_first_model_becomes_champion_and_again_is_reused(world: Any, places: Places) -> None:
    made, reused = places.register(world)
    assert not reused
    assert made.facts["model"] == {
        "name": places.model_name,
        "version": "1",
        "aliases": ["champion"],
        "uri": f"models:/{places.model_name}/1",
        "digest": world.parts.train.identity["model_digest"],
    }
    assert made.facts["answers_checked"] == {"asked": 5, "agreed": 5}
    assert places.aliases == {"champion": "1"}
    again, reused = places.register(world)
    assert reused and again == made
    version = places.registry.version(places.model_name, "1")
    for step in ("ingest", "featurize", "train", "evaluate"):
        assert len(version.tags[f"frostline.{step}_fingerprint"]) == 64
    assert version.tags["frostline.git_commit"]


def test_a_worse_model_challenges_and_a_better_one_replaces(world: Any, places: Places) -> None:
    places.register(world)
    worse, _ = places.register(world.trained(1))
    assert worse.facts["promotion"]["case"] == "loses"
    assert places.aliases == {"champion": "1", "challenger": "2"}
    better, _ = places.register(world.trained(5))
    assert better.facts["promotion"]["case"] == "wins"
    assert places.aliases == {"champion": "3", "challenger": "2", "previous": "1"}
    assert [(entry.version, entry.previous_version) for entry in history(world.store, places.model_name)] == [
        ("1", None),
        ("3", "1"),
    ]
    # The former champion, registered again, meets the new one.
    old, reused = places.register(world)
    assert not reused and old.facts["promotion"]["case"] == "loses"
    assert places.aliases == {"champion": "3", "challenger": "1", "previous": "1"}
    assert len(places.registry.versions(places.model_name)) == 3


def test_a_model_that_does_not_look_gets_no_alias(world: Any, places: Places) -> None:
    made, _ = places.register(world, BLIND)
    assert made.facts["promotion"]["case"] == "fails_control"
    assert (made.facts["model"]["aliases"], places.aliases) == ([], {})
    assert head(world.store, places.model_name) is None
    # Under another rule it passes; the version is the same.
    assert places.register(world)[0].facts["model"]["version"] == "1"
    assert places.register(world, BLIND)[0].facts["promotion"]["case"] == "is_champion"


DRAWN = {"stored_as": Reencode(max_side_px=32), "strategy": {"kind": "sampling", "temperature": 3.0}}


def test_a_retrain_that_lost_its_claim_promotes_nothing(world: Any, places: Places) -> None:
    """It was taken for dead and another one took its place; then it wakes."""
    claims = Claims(world.store, f"register/claims/{places.model_name}")
    holder = this_process("the first retrain")
    with claims.held(holder, "queue", print, print) as lost:
        create_in(world.store, claims.folder, lost.number + 1, {"holder": holder.model_dump()})
        places.workspace = replace(places.workspace, claim=lost)
        with pytest.raises(ClaimLost, match="claim 1 of the first retrain was lost"):
            places.register(world)
        assert (head(world.store, places.model_name), places.aliases) == (None, {})
    places.workspace = replace(places.workspace, claim=claims.newest())
    places.register(world)
    assert places.aliases == {"champion": "1"}


@pytest.mark.parametrize("world", [DRAWN], indirect=True)
def test_a_model_whose_texts_are_drawn_registers_where_ingest_made_images_smaller(world: Any, places: Places) -> None:
    assert world.stored[0] != world.images[0]
    made, _ = places.register(world)
    assert made.facts["answers_checked"] == {"asked": 5, "agreed": 5}
    assert places.aliases == {"champion": "1"}


def test_a_version_that_answers_otherwise_is_not_promoted(world: Any, places: Places) -> None:
    """The evaluation belongs to other parameters than those that are registered."""
    other = world.trained(1)
    mixed = replace(world, parts=replace(world.parts, train=other.parts.train))
    with pytest.raises(IntegrityError, match="were answered as in the evaluation"):
        places.register(mixed)
    assert (head(world.store, places.model_name), places.aliases) == (None, {})


def test_the_champions_scores_are_found_by_digest_and_test_rows(world: Any, places: Places) -> None:
    places.register(world)
    champion = head(world.store, places.model_name)
    assert champion is not None
    later = world.trained(1).evaluation
    assert champion_evaluation(champion, later, world.store) is None
    commit_evaluation(world, world.evaluation)
    found = champion_evaluation(champion, later, world.store)
    assert found == world.evaluation
    assert champion_scores(found, RULE, world.cache).metrics == {"vqa_accuracy": 0.8}
    other_rows = later.model_copy(update={"inputs": {**later.inputs, "test_digest": "other"}})
    assert champion_evaluation(champion, other_rows, world.store) is None


def commit_evaluation(world: Any, evaluation: Manifest) -> None:
    from infra import log

    key = manifest_key("evaluate", evaluation.fingerprint)
    world.store.create(key, evaluation.model_dump_json().encode())
    log.append(world.store, "evaluate", evaluation.inputs["model_digest"], {"fingerprint": evaluation.fingerprint})


def test_the_champions_first_test_is_its_oldest_evaluation_that_is_left_and_is_read_where_forgetting_is_bounded(
    world: Any, places: Places, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    places.register(world)
    now = world.evaluation
    table = pq.read_table(world.cache.path("evaluate", now.parts_of("predictions")[0]))
    parts = []
    for number, num_rows in enumerate((2, 3)):
        pq.write_table(table.slice(0, num_rows), tmp_path / "old.parquet")
        parts.append(upload_part(world.store, "evaluate", tmp_path / "old.parquet", "predictions", num_rows))
        old = now.model_dump(mode="json", exclude={"digest"})
        old["fingerprint"], old["inputs"]["test_digest"] = str(number) * 64, "other"
        old["draft"]["parts"] = [parts[-1].model_dump()]
        commit_evaluation(world, Manifest.model_validate(old))
    commit_evaluation(world, now)
    world.store.delete(manifest_key("evaluate", "0" * 64))
    bounded = RULE.model_copy(update={"forgetting": 0.1})
    found = champion_scores(now, bounded, world.cache)
    assert found.first_test is not None
    assert found.first_test.example_ids == {"0", "1", "2"}
    assert found.first_test.told == f"evaluate {'1' * 12}, made {now.record.created_at}"
    assert len(found.examples) == 22
    world.store.delete(part_key("evaluate", parts[1].digest))
    fresh = PartCache(world.store, tmp_path / "fresh")
    with pytest.raises(IntegrityError, match=parts[1].digest):
        champion_scores(now, bounded, fresh)
    assert champion_scores(now, RULE, fresh).first_test is None


def test_a_version_that_was_altered_is_refused(world: Any, places: Places) -> None:
    places.register(world)
    version = places.registry.version(places.model_name, "1")
    fresh = places.workspace.settings.cache / "fresh"
    stored = Path(version.source_uri.removeprefix("file://")) / PACKAGE_PATH / "trainables.safetensors"
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"trainables\.safetensors"):
        fetch_package(places.registry, version, fresh)
    stored.write_bytes(good)
    assert Predictor.load(fetch_package(places.registry, version, fresh), fresh).caption(world.images[:1])


@pytest.mark.parametrize("name", ["model.py", "python_model.pkl"])
def test_a_version_altered_between_registration_and_promotion_is_named_and_not_promoted(
    world: Any, places: Places, name: str
) -> None:
    """The gate refuses it first; then the rule is relaxed, and the version is there already."""
    places.register(world, BLIND)
    version = places.registry.version(places.model_name, "1")
    with (Path(version.source_uri.removeprefix("file://")) / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(
        IntegrityError, match=rf"{name} was (altered \(sha256 \w+… in place of \w+…\)|added) after registration"
    ):
        places.register(world)
    assert (head(world.store, places.model_name), places.aliases) == (None, {})


def test_plain_mlflow_loads_the_version_and_predicts(
    world: Any, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd
    from mlflow.pyfunc import load_model

    places.register(world)
    image, path = world.images[0], tmp_path / "image.png"
    path.write_bytes(image)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", places.registry.uri)
    monkeypatch.setenv("FROSTLINE_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    model = load_model(f"models:/{places.model_name}@champion")
    forms = [str(path), base64.b64encode(image).decode()]
    found = [*model.predict(pd.DataFrame({"image": forms})), *model.predict(pd.DataFrame({"image": [image]}))]
    found += model.predict(pd.DataFrame({"image": forms[:1], "prompt": ["how many?"]}))
    version = places.registry.version(places.model_name, "1")
    predictor = Predictor.load(fetch_package(places.registry, version, tmp_path / "c"), tmp_path / "c")
    assert found == predictor.caption([image]) * 3 + predictor.ask(image, ["how many?"])
    # MLflow ran the script where it lies, and the version is still as it was registered.
    assert changed_file(Path(version.source_uri.removeprefix("file://")), version.tags[FILES_TAG]) is None


def test_no_file_of_a_version_is_a_pickle(world: Any, places: Places, tmp_path: Path) -> None:
    places.register(world)
    folder = places.registry.download(places.registry.version(places.model_name, "1"), tmp_path / "copy")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {
        ".json", ".md", ".py", ".safetensors", ".txt", ".yaml", "",
    }  # fmt: skip
    assert "python_model" not in {path.stem for path in folder.rglob("*")}
