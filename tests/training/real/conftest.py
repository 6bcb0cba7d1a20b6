"""Real data, MobileNetV2 as the tower and stories260K as the language model: prepared once per session."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from photo_edits import write_photo_edits
from real_training import World, workspace_in, world_of

from infra.workspace import Workspace


@pytest.fixture(scope="session")
def real_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace_in(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def make_world(shared_data: Path, real_workspace: Workspace) -> Callable[..., World]:
    """make_world(name, source, size_px, splits={...}, features...) -> ingested and featurized."""

    def make(name: str, source: dict[str, Any], size_px: int, splits: dict[str, float], **featurized: Any) -> World:
        ingested = {"sources": [source], "split_fractions": splits}
        return world_of(name, shared_data / "weights", size_px, real_workspace, ingested, **featurized)

    return make


@pytest.fixture(scope="session")
def easy_vqa(shared_data: Path, make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """The questions about 2000 of the 4000 pictures of one coloured shape."""
    folder = shared_data / "easy_vqa"
    lines = (folder / "questions.jsonl").read_text().splitlines()
    images = sorted({json.loads(line)["image"] for line in lines})[:2000]
    chosen = tmp_path_factory.mktemp("easy_vqa") / "questions.jsonl"
    kept = set(images)
    chosen.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["image"] in kept))
    source = {"kind": "jsonl", "path": str(chosen), "images": str(folder / "images.tar")}
    return make_world("easy_vqa", source, 128, {"val": 0.0, "test": 0.2}, pooling="mean")


@pytest.fixture(scope="session")
def cifar10(shared_data: Path, make_world: Callable[..., World]) -> World:
    source = {"kind": "hf_parquet", "path": str(shared_data / "cifar10")}
    return make_world("cifar10", source, 128, {"val": 0.0, "test": 0.2}, pooling="mean")


@pytest.fixture(scope="session")
def ucm_captions(shared_data: Path, make_world: Callable[..., World]) -> World:
    source = {"kind": "webdataset", "path": str(shared_data / "ucm_captions"), "columns": {"attributes": ["label"]}}
    return make_world("ucm_captions", source, 128, {"val": 0.0, "test": 0.15}, pooling="mean")


@pytest.fixture(scope="session")
def photo_edits(shared_data: Path, make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """Real photos with another brightness, contrast and saturation; all edits of a photo are in one split."""
    folder = tmp_path_factory.mktemp("photo_edits")
    write_photo_edits(shared_data, folder)
    source = {"kind": "jsonl", "path": str(folder / "edits.jsonl"), "images": str(folder)}
    # An early layer: deeper ones were trained to overlook what an edit changes.
    return make_world("photo_edits", source, 128, {"val": 0.0, "test": 0.2}, layer=4, pooling="mean")
