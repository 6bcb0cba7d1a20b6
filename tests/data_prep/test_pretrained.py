"""References to frozen models: one way each, a digest of what is read, and errors that say what to do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_prep.pretrained import PretrainedRef, digest_of, model_files, resolve
from infra.errors import ConfigError, DataError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, ensure_output
from infra.part_cache import PartCache
from infra.store import LocalStore

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "toy"}))
    (folder / "model.safetensors").write_bytes(bytes(100))
    return folder


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"revision": COMMIT},
        {"id": "gpt2"},
        {"id": "gpt2", "revision": "main"},
        {"id": "gpt2", "revision": COMMIT, "folder": "x"},
        {"folder": "x", "base": "vision_tower"},
    ],
)
def test_anything_but_one_exact_reference_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected"):
        PretrainedRef.model_validate(given)


def test_a_hub_model_is_named_by_id_and_commit_without_the_network() -> None:
    other = COMMIT[::-1]
    refs = [("gpt2", COMMIT), ("gpt2", other), ("gpt3", COMMIT)]
    assert len({digest_of(PretrainedRef(id=name, revision=commit), None) for name, commit in refs}) == 3


def test_a_folders_digest_follows_its_files_and_not_its_place(model_dir: Path, tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return digest_of(PretrainedRef(folder=folder), None)

    before = digest(model_dir)
    moved = Path(shutil.copytree(model_dir, tmp_path / "elsewhere"))
    assert digest(moved) == before
    (moved / "training_args.bin").write_bytes(b"never read")
    assert digest(moved) == before
    found = {before}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (moved / name).write_bytes(b"x")
        found.add(digest(moved))
    assert len(found) == 4


def test_folders_without_a_model_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        model_files(tmp_path / "nowhere")
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled weights are never read"):
        model_files(model_dir)


def test_a_model_of_the_base_step_is_unpacked_from_its_parts(
    model_dir: Path, store: LocalStore, tmp_path: Path
) -> None:
    def produce(attempt: Attempt) -> Draft:
        paths = sorted(model_dir.iterdir())
        parts = [attempt.add_part(path, "file", 1, name=f"vision_tower/{path.name}") for path in paths]
        return Draft(parts=parts, identity={"vision_tower_digest": "v" * 64})

    base: Manifest = ensure_output(store, OutputRequest("base", 1, "demo", {}, {}), produce, {})[0]
    ref = PretrainedRef(base="vision_tower")
    folder = resolve(ref, base, PartCache(store, tmp_path / "cache"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in model_dir.iterdir()
    }
    assert digest_of(ref, base) == "v" * 64
    with pytest.raises(ConfigError, match="expected vision_tower or language_model"):
        digest_of(PretrainedRef(base="tower"), base)
    with pytest.raises(ConfigError, match="no `base` section"):
        digest_of(ref, None)


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what a refused connection ends in, after 20 s of retries
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    ref = PretrainedRef(id="nobody/no-such-model", revision=COMMIT)
    with pytest.raises(ConfigError) as caught:
        resolve(ref, None, PartCache(store, tmp_path / "cache"))
    assert f"nobody/no-such-model@{COMMIT[:12]}" in str(caught.value)
    assert "\n" not in str(caught.value)
