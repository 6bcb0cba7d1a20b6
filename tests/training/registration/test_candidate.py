"""Versions that were altered after registration."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from registered_model import Model

from flows.serving import answer
from infra.errors import IntegrityError
from infra.tracking import listing_of
from training.export import export
from training.package import CARD, README, SCRIPT, TRAINABLES
from training.predictor import Predictor
from training.version import ensure_version

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


class Bomb:
    """Pickled, this touches a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_malicious_version_runs_nothing(model: Model, tmp_path: Path) -> None:
    """A pickle, a loader of its own, remote code beside the frozen models: none of it, by any way to use a version."""
    marker, version = tmp_path / "executed", model.add()
    evil = f"open({str(marker)!r}, 'w')\nclass Evil: pass\n"
    for name in ("python_model.pkl", "artifacts/package/pytorch_model.bin", "artifacts/package/trainables.pkl"):
        model.file(version, name).write_bytes(pickle.dumps(Bomb(marker)))
    for name in ("evil.py", "artifacts/package/evil.py", "artifacts/package/__init__.py"):
        model.file(version, name).write_text(evil)
    model.file(version, "artifacts/package/config.json").write_text('{"auto_map": {"AutoModel": "evil.Evil"}}')
    _replace(model.file(version, "MLmodel"), "loader_module: mlflow.pyfunc.loaders.code_model", "loader_module: evil")
    with pytest.raises(IntegrityError, match="Do not load it with MLflow"):
        model.promote("1", force=True)
    files = export(model.place.registry, version, model.workspace.cache, tmp_path / "exported")
    assert {file.name for file in files} == {TRAINABLES, CARD, SCRIPT, README}
    image = model.world.images[0]
    uri = f"models:/{model.place.model_name}/1"
    (before,) = answer(uri, model.workspace, [image], None)
    assert before == Predictor.load(tmp_path / "exported", tmp_path / "cache").caption([image])[0]
    # And code beside the language model, which its pin does not know.
    language_model = model.world.parts.language_model.folder
    whole = (language_model / "config.json").read_bytes()
    try:
        (language_model / "evil.py").write_text(evil)
        config = json.loads(whole) | {"auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}}
        (language_model / "config.json").write_text(json.dumps(config))
        with pytest.raises(IntegrityError, match=r"config\.json"):
            answer(uri, model.workspace, [image], None)
    finally:
        (language_model / "config.json").write_bytes(whole)
        (language_model / "evil.py").unlink()
    assert not marker.exists()
