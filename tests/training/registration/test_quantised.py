"""An int8 model as a version of its own: whole, altered, lost and found."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quantised import in_int8
from registered_model import Model
from registering import RULE, Places
from safetensors.torch import load_file, save_file

from data_prep.pins import Pin
from data_prep.pretrained import PretrainedRef
from infra.digests import canonical_json, digest_json
from infra.errors import IntegrityError
from infra.outputs import Manifest, ensure_output
from infra.tracking import Registry, listing_of
from training.archive import restore
from training.candidate import FILES_TAG, ModelPlace, read_candidate
from training.champion_scores import scores_of
from training.export import export
from training.ledger import history
from training.package import CARD, LANGUAGE_MODEL, ModelCard, read_package, write_package
from training.predictor import PACKAGE_DIGEST_TAG, Predictor, fetch_package
from training.promotion import decide_quantised
from training.register import RegisterNames, Registration, champion_of, register, register_request
from training.version import packaged

TENSORS = f"{LANGUAGE_MODEL}/int8.safetensors"


@pytest.fixture
def small(world: Any, places: Places, tmp_path: Path) -> Any:
    (tmp_path / "small").mkdir()
    return in_int8(world, places.workspace, tmp_path / "small")


@pytest.fixture(scope="module")
def lasting_package(lasting_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    in_int8(lasting_model.world, lasting_model.workspace, folder)
    return folder / "package"


@pytest.fixture
def package(lasting_package: Path, tmp_path: Path) -> Path:
    """To be altered."""
    return Path(shutil.copytree(lasting_package, tmp_path / "package"))


def registered(places: Places, world: Any, small: Any, max_loss: float = 0.01) -> tuple[Manifest, bool]:
    more = {"max_loss": max_loss, "original_digest": world.parts.train.identity["model_digest"]}
    names, store = RegisterNames("tiny-int8", places.model_name, "here"), places.workspace.store
    request = register_request(RULE, names, small.parts.train, small.evaluation, store, more)
    champion = champion_of(request, store)
    known = champion and places.evaluations[champion.model_digest]
    places.evaluations[small.parts.train.identity["model_digest"]] = small.evaluation
    asked = Registration(RULE, places.model_name, small.parts, small.evaluation, known, world.evaluation, max_loss)
    return ensure_output(store, request, lambda attempt: register(asked, attempt, places.workspace), resources={})


def test_it_is_registered_once_serves_and_names_what_it_came_from(
    world: Any, small: Any, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd
    from mlflow.pyfunc import load_model

    made, reused = registered(places, world, small)
    assert (made.facts["promotion"]["case"], places.aliases, reused) == ("no_champion", {"champion": "1"}, False)
    assert made.facts["answers_checked"] == {"asked": 5, "agreed": 5}
    assert registered(places, world, small) == (made, True)
    version = places.registry.version(places.model_name, "1")
    assert version.tags["frostline.quantized_from"] == "models:/tiny/1"
    assert version.tags["model_digest"] == small.parts.train.identity["model_digest"]
    assert [entry.kind for entry in history(world.store, places.model_name)] == ["promotion"]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", places.registry.uri)
    monkeypatch.setenv("FROSTLINE_VAR_DIR", str(tmp_path / "var"))
    found = load_model(f"models:/{places.model_name}@champion").predict(pd.DataFrame({"image": world.images[:1]}))
    fetched = fetch_package(places.registry, version, tmp_path / "c")
    assert found == Predictor.load(fetched, tmp_path / "c").caption(world.images[:1])


def test_a_second_one_replaces_it_only_where_it_is_better_and_the_champion_made_smaller_again_stays(
    world: Any, small: Any, places: Places, tmp_path: Path
) -> None:
    registered(places, world, small)
    again, reused = registered(places, world, small, max_loss=0.02)
    assert (again.facts["promotion"]["case"], reused) == ("is_champion", False)
    assert len(history(world.store, places.model_name)) == 1
    later = world.trained(5)
    (tmp_path / "later").mkdir()
    better, _ = registered(places, later, in_int8(later, places.workspace, tmp_path / "later"))
    assert (better.facts["promotion"]["case"], places.aliases) == ("wins", {"champion": "2", "previous": "1"})
    older, _ = registered(places, world, small, max_loss=0.03)
    assert older.facts["promotion"]["case"] == "loses"
    assert places.aliases == {"champion": "2", "previous": "1", "challenger": "1"}


def test_a_model_made_worse_on_purpose_is_refused_by_the_gate(lasting_model: Model) -> None:
    world = lasting_model.world
    original = scores_of(world.evaluation, world.cache)
    assert decide_quantised(None, original, original, RULE, 0.01).promoted
    worse = [
        replace(one, scores={name: score - 0.05 for name, score in one.scores.items()}) for one in original.examples
    ]
    metrics = {name: score - 0.05 for name, score in original.metrics.items()}
    found = decide_quantised(None, original, replace(original, examples=worse, metrics=metrics), RULE, 0.01)
    assert (found.case, found.alias) == ("loses_quality", None)


def test_it_needs_no_original_and_takes_less_room(lasting_model: Model, package: Path, tmp_path: Path) -> None:
    world = lasting_model.world
    card = read_package(package).card
    gone = Pin(ref=PretrainedRef(folder=tmp_path / "gone"), digest="0" * 64, files={"config.json": "0" * 64})
    card = card.model_copy(update={"language_model": gone})
    lonely = write_package(tmp_path / "lonely", card, package / "trainables.safetensors", package / LANGUAGE_MODEL)
    captions = Predictor.load(lonely.folder, world.cache.folder).caption(world.images[:2])
    assert captions == Predictor.load(package, world.cache.folder).caption(world.images[:2])
    whole = load_file(world.parts.language_model.folder / "model.safetensors")
    packed = load_file(package / TENSORS)
    assert sum(one.nbytes for one in packed.values()) < 0.4 * sum(one.nbytes for one in whole.values())


@pytest.mark.parametrize("name", ["int8.safetensors", "config.json", "quantization.json", "tokenizer.json"])
def test_a_flipped_byte_of_the_language_model_is_refused_and_named(package: Path, name: str) -> None:
    path = package / LANGUAGE_MODEL / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        read_package(package)


@pytest.mark.parametrize("where", ["added_tokens.json", "deeper/model.py"])
def test_a_file_that_the_card_does_not_list_is_refused(package: Path, where: str) -> None:
    path = package / LANGUAGE_MODEL / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(IntegrityError, match="a file that the card does not list"):
        read_package(package)


@pytest.mark.parametrize("name", ["language_model/../../secret", "/etc/passwd", "language_model/a/b", "other/file"])
def test_a_card_that_lists_files_elsewhere_is_refused(package: Path, name: str) -> None:
    content = json.loads((package / CARD).read_bytes())
    del content["digest"]
    content["files"][name] = "0" * 64
    (package / CARD).write_bytes(canonical_json({**content, "digest": digest_json(content)}))
    with pytest.raises(IntegrityError, match="not a whole model card"):
        read_package(package)


def test_a_card_without_a_language_model_is_no_int8_card(package: Path) -> None:
    content = json.loads((package / CARD).read_bytes())
    del content["digest"]
    content["files"] = {name: digest for name, digest in content["files"].items() if LANGUAGE_MODEL not in name}
    shutil.rmtree(package / LANGUAGE_MODEL)
    (package / CARD).write_bytes(canonical_json({**content, "digest": digest_json(content)}))
    with pytest.raises(IntegrityError, match="expected 0 files of an int8 language model"):
        read_package(package)


def test_cards_of_other_models_do_not_mention_it(lasting_model: Model, tmp_path: Path) -> None:
    """So their digests are those of Frostlines that knew no int8."""
    world = lasting_model.world
    made = packaged(tmp_path / "whole", "tiny", world.parts, world.evaluation, world.cache)
    assert "quantization" not in json.loads((made.folder / CARD).read_bytes())["card"]


def test_an_altered_language_model_is_refused_by_the_store_where_all_digests_in_mlflow_were_made_to_fit(
    world: Any, small: Any, places: Places, tmp_path: Path
) -> None:
    registered(places, world, small)
    version = places.registry.version(places.model_name, "1")
    files = Path(version.source_uri.removeprefix("file://"))
    package, altered = files / "artifacts" / "package", tmp_path / "altered"
    shutil.move(package, altered)
    tensors = load_file(altered / TENSORS)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] ^ 1 if name.endswith("weight") else -tensors[name]}, altered / TENSORS)
    content = json.loads((altered / CARD).read_bytes())
    card = ModelCard.model_validate(content["card"])
    fitting = write_package(package, card, altered / "trainables.safetensors", altered / LANGUAGE_MODEL)
    for tag, value in {PACKAGE_DIGEST_TAG: fitting.digest, FILES_TAG: listing_of(files)}.items():
        places.registry._client.set_model_version_tag(places.model_name, "1", tag, value)
    place = ModelPlace(world.store, places.registry, places.model_name)
    with pytest.raises(IntegrityError, match=r"language_model/int8.safetensors with sha256 .*as trained"):
        read_candidate(place, places.registry.version(places.model_name, "1"))
    with pytest.raises(IntegrityError, match="as trained"):
        registered(places, world, small, max_loss=0.02)


def test_it_comes_back_from_the_store_and_can_be_exported_as_it_is(
    world: Any, small: Any, places: Places, tmp_path: Path
) -> None:
    made, _ = registered(places, world, small)
    archived = {part.name for part in made.parts_of("version_file")}
    assert not any(LANGUAGE_MODEL in name for name in archived)  # it is a part of `quantise` already
    place = ModelPlace(world.store, Registry(f"sqlite:///{tmp_path}/emptied/mlflow.db"), places.model_name)
    (back,) = restore(place, places.workspace.cache).versions
    assert not back.was_there and place.registry.aliases(places.model_name) == {"champion": "1"}
    assert read_candidate(place, back.version).train == small.parts.train
    export(place.registry, back.version, places.workspace.cache, tmp_path / "exported")
    assert (tmp_path / "exported" / TENSORS).read_bytes() == (tmp_path / "small" / "package" / TENSORS).read_bytes()
