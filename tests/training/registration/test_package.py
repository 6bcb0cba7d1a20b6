import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_prep.pins import pin, verified_folder
from data_prep.pretrained import PretrainedRef
from infra.errors import ConfigError, DataError, IntegrityError
from infra.outputs import Draft, OutputRequest, ensure_output, upload_part
from infra.store import LocalStore
from training.generation import Beam, Greedy, Sampling, Strategy
from training.package import CARD, README, SCRIPT, TRAINABLES, read_package, write_package
from training.predictor import Predictor, answer_table
from training.version import model_card


@pytest.fixture
def package(world: Any, tmp_path: Path) -> Path:
    card = model_card("tiny", world.parts, world.evaluation, world.cache)
    (part,) = world.parts.train.parts
    return write_package(tmp_path / "package", card, world.cache.path("train", part)).folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_same_model_gives_the_same_bytes(world: Any, package: Path, tmp_path: Path) -> None:
    card = model_card("tiny", world.parts, world.evaluation, world.cache)
    again = write_package(tmp_path / "again", card, package / TRAINABLES).folder
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in package.iterdir()}
    assert read_package(again).card == card


def test_a_package_holds_no_pickle(package: Path) -> None:
    assert {path.name for path in package.iterdir()} == {TRAINABLES, CARD, SCRIPT, README}


@pytest.mark.parametrize("name", [TRAINABLES, CARD, SCRIPT, README])
def test_a_flipped_byte_is_refused_and_named(package: Path, name: str) -> None:
    flip(package / name)
    with pytest.raises(IntegrityError, match=name):
        read_package(package)


@pytest.mark.parametrize("name", [TRAINABLES, CARD, SCRIPT])
def test_a_missing_file_is_named(package: Path, name: str) -> None:
    (package / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        read_package(package)


@pytest.mark.parametrize(("which", "name"), [("vision_tower", "model.safetensors"), ("language_model", "config.json")])
def test_a_changed_frozen_model_is_refused(world: Any, package: Path, tmp_path: Path, which: str, name: str) -> None:
    content = json.loads((package / CARD).read_text())
    moved = tmp_path / which
    shutil.copytree(content["card"][which]["ref"]["folder"], moved)
    pinned = read_package(package).card
    model = getattr(pinned, which)
    card = pinned.model_copy(
        update={which: model.model_copy(update={"ref": model.ref.model_copy(update={"folder": moved})})}
    )
    other = write_package(tmp_path / "other", card, package / TRAINABLES).folder
    assert len(Predictor.load(other, world.cache.folder).caption(world.images)) == len(world.images)
    flip(moved / name)
    with pytest.raises(IntegrityError, match=rf"{which}/{name}: found sha256 .* expected sha256"):
        Predictor.load(other, world.cache.folder)


@pytest.mark.parametrize(
    "strategy",
    [Greedy(), Beam(kind="beam", num_beams=2), Sampling(kind="sampling", temperature=2.0)],
    ids=lambda strategy: strategy.kind,
)
def test_answers_do_not_depend_on_the_batch(world: Any, package: Path, tmp_path: Path, strategy: Strategy) -> None:
    card = read_package(package).card
    card = card.model_copy(update={"generation": card.generation.model_copy(update={"strategy": strategy})})
    written = write_package(tmp_path / "with-strategy", card, package / TRAINABLES)
    predictor = Predictor.load(written.folder, world.cache.folder, threads=1)
    assert predictor.package.card.generation.strategy == strategy
    captions = predictor.caption(world.images)
    assert captions == [predictor.caption([image])[0] for image in world.images]
    questions = ["how many?", "what is the colour of the seven?", "what?"]
    assert predictor.ask(world.images[0], questions) == [predictor.ask(world.images[0], [q])[0] for q in questions]
    assert predictor.ask(world.images[0], []) == [] == predictor.caption([])


def test_a_task_that_was_not_trained_is_named(world: Any, package: Path) -> None:
    predictor = Predictor.load(package, world.cache.folder)
    with pytest.raises(ConfigError, match="'retrieve' was asked; this model was trained for caption, vqa"):
        predictor.answer(world.images[:1], ["retrieve"], [""])


def test_a_table_takes_paths_base64_and_bytes(world: Any, package: Path, tmp_path: Path) -> None:
    import pandas as pd

    predictor = Predictor.load(package, world.cache.folder)
    image = world.images[0]
    (tmp_path / "image.png").write_bytes(image)
    forms = [str(tmp_path / "image.png"), base64.b64encode(image).decode(), image]
    caption, answer = predictor.caption([image])[0], predictor.ask(image, ["how many?"])[0]
    assert answer_table(predictor, pd.DataFrame({"image": forms})) == [caption] * 3
    asked = pd.DataFrame({"image": forms, "prompt": [None, "how many?", float("nan")]})
    assert answer_table(predictor, asked) == [caption, answer, caption]
    with pytest.raises(DataError, match="row 1: found 'no such file'"):
        answer_table(predictor, pd.DataFrame({"image": [image, "no such file"]}))
    with pytest.raises(DataError, match="expected `image`"):
        answer_table(predictor, pd.DataFrame({"picture": forms}))


def test_frozen_models_of_a_base_output_come_from_the_store(world: Any, package: Path, tmp_path: Path) -> None:
    folder = read_package(package).card.vision_tower.ref.folder
    assert folder is not None
    parts = [
        upload_part(world.store, "base", path, "file", 0, name=f"vision_tower/{path.name}")
        for path in sorted(folder.iterdir())
    ]
    request = OutputRequest("base", 1, "tiny", {}, {})
    draft = Draft(parts=parts, identity={"vision_tower_digest": "v" * 64})
    base, _ = ensure_output(world.store, request, lambda _: draft, resources={})
    model = pin(PretrainedRef(base="vision_tower"), base, world.cache)
    elsewhere = LocalStore(tmp_path / "elsewhere")
    found = verified_folder(model, tmp_path / "cold", elsewhere)
    assert {path.name for path in found.iterdir()} == {path.name for path in folder.iterdir()}
    whole = (found / "config.json").read_bytes()
    flip(found / "config.json")
    assert (verified_folder(model, tmp_path / "cold", world.store) / "config.json").read_bytes() == whole
    lost = model.model_copy(update={"store_uri": elsewhere.uri})
    with pytest.raises(ConfigError, match=r"was not found in .*elsewhere; expected the store"):
        verified_folder(lost, tmp_path / "cold", None)
