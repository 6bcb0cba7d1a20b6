"""The step against a real MLflow on SQLite."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registering import RULE, Places

from infra.errors import IntegrityError
from infra.outputs import Manifest, upload_part
from infra.tracking import PACKAGE_PATH
from training.ledger import head, history
from training.predictor import Predictor, fetch_package
from training.promotion import ControlMargin
from training.register import champion_scores


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
    assert made.facts["answers_checked"] == {"asked": 6, "agreed": 6}
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
    blind = RULE.model_copy(update={"control_margins": {"vqa_accuracy": ControlMargin(minimum_difference=0.9)}})
    made, _ = places.register(world, blind)
    assert made.facts["promotion"]["case"] == "fails_control"
    assert (made.facts["model"]["aliases"], places.aliases) == ([], {})
    assert head(world.store, places.model_name) is None
    # Under another rule it passes; the version is the same.
    assert places.register(world)[0].facts["model"]["version"] == "1"
    assert places.register(world, blind)[0].facts["promotion"]["case"] == "is_champion"


def test_a_version_that_answers_otherwise_is_not_promoted(world: Any, places: Places) -> None:
    """The evaluation belongs to other parameters than those that are registered."""
    other = world.trained(1)
    mixed = replace(world, parts=replace(world.parts, train=other.parts.train))
    with pytest.raises(IntegrityError, match="were answered as in the evaluation"):
        places.register(mixed)
    assert (head(world.store, places.model_name), places.aliases) == (None, {})


def test_the_champions_scores_are_found_by_digest_and_test_rows(world: Any, places: Places) -> None:
    from infra import log

    places.register(world)
    champion = head(world.store, places.model_name)
    assert champion is not None
    later = world.trained(1).evaluation
    assert champion_scores(champion, later, world.cache) is None
    key = f"evaluate/{world.evaluation.fingerprint}/manifest.json"
    world.store.create(key, world.evaluation.model_dump_json().encode())
    log.append(
        world.store, "evaluate", world.evaluation.inputs["model_digest"], {"fingerprint": world.evaluation.fingerprint}
    )
    found = champion_scores(champion, later, world.cache)
    assert found is not None and found.metrics == {"vqa_accuracy": 0.8}
    assert found.first_tested_on == {str(number) for number in range(22)}
    other_rows = later.model_copy(update={"inputs": {**later.inputs, "test_digest": "other"}})
    assert champion_scores(champion, other_rows, world.cache) is None


def test_the_champion_was_first_tested_on_the_examples_of_its_oldest_evaluation(
    world: Any, places: Places, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    from infra import log

    places.register(world)
    champion = head(world.store, places.model_name)
    assert champion is not None
    now = world.evaluation
    table = pq.read_table(world.cache.path("evaluate", now.parts[0])).slice(0, 3)
    pq.write_table(table, tmp_path / "old.parquet")
    old = now.model_dump(mode="json", exclude={"digest"})
    old["fingerprint"], old["inputs"]["test_digest"] = "0" * 64, "other"
    part = upload_part(world.store, "evaluate", tmp_path / "old.parquet", "predictions", 3)
    old["draft"]["parts"] = [part.model_dump()]
    for evaluation in (Manifest.model_validate(old), now):
        world.store.create(f"evaluate/{evaluation.fingerprint}/manifest.json", evaluation.model_dump_json().encode())
        log.append(world.store, "evaluate", champion.model_digest, {"fingerprint": evaluation.fingerprint})
    found = champion_scores(champion, now, world.cache)
    assert found is not None
    assert found.first_tested_on == {"0", "1", "2"}
    assert len(found.examples) == 22


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
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # MLflow runs a local version's script where it lies
    model = load_model(f"models:/{places.model_name}@champion")
    forms = [str(path), base64.b64encode(image).decode()]
    found = [*model.predict(pd.DataFrame({"image": forms})), *model.predict(pd.DataFrame({"image": [image]}))]
    found += model.predict(pd.DataFrame({"image": forms[:1], "prompt": ["how many?"]}))
    version = places.registry.version(places.model_name, "1")
    predictor = Predictor.load(fetch_package(places.registry, version, tmp_path / "c"), tmp_path / "c")
    assert found == predictor.caption([image]) * 3 + predictor.ask(image, ["how many?"])


def test_no_file_of_a_version_is_a_pickle(world: Any, places: Places, tmp_path: Path) -> None:
    places.register(world)
    folder = places.registry.download(places.registry.version(places.model_name, "1"), tmp_path / "copy")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {
        ".json", ".md", ".py", ".safetensors", ".txt", ".yaml", "",
    }  # fmt: skip
    assert "python_model" not in {path.stem for path in folder.rglob("*")}
