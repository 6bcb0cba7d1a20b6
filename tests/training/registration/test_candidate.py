"""Versions that were altered after registration."""

import shutil
from pathlib import Path

import pytest
from registered_model import Model

from infra.errors import IntegrityError
from infra.tracking import listing_of
from training.package import CARD, SCRIPT, TRAINABLES
from training.version import ensure_version

ALTERATIONS = {
    f"{TRAINABLES}: found sha256": lambda path: (path / "artifacts/package" / TRAINABLES).open("ab").write(b"x"),
    f"{CARD}: not a whole": lambda path: (path / "artifacts/package" / CARD).open("ab").write(b" x"),
    rf"{SCRIPT} was altered \(sha256 \w{{12}}… in place of \w{{12}}…\)": lambda path: (
        (path / SCRIPT).open("ab").write(b"\n")
    ),
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
