"""Encoding actors of a real Ray that die in every way in the midst of a shard: nothing is lost, nothing doubled."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from featurizing import assert_features_are_those_of_each_image_alone, encode
from stored_parts import noise, store_images
from tiny_towers import save_tower
from transformers import ViTImageProcessorPil

from data_prep import featurize as step
from data_prep.encoder import Encoder, Unit
from infra.settings import ActorResources
from infra.workspace import Workspace

pytestmark = pytest.mark.slow
ACTORS = ActorResources(num_actors=2, rows_per_batch=2, max_restarts=1)


@pytest.fixture(scope="module")
def tower_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    save_tower("vit", folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    return with_actors(workspace, ACTORS)


def with_actors(workspace: Workspace, actors: ActorResources) -> Workspace:
    return replace(workspace, profile=workspace.profile.model_copy(update={"featurize": actors}))


def encoder_that_ends_once(end: Callable[[], object], folder: Path) -> type[Encoder]:
    """Made in a function, so that it travels to the actor by value."""

    class Ends(Encoder):
        def run(self, unit: Unit) -> list[dict[str, Any]]:
            with (folder / "units").open("a") as file:
                file.write(f"{unit.num_images}\n")
            encode_pixels = self.tower.encode_pixels
            batches: list[None] = []

            def second_batch_ends(pixels_BCHW: Any) -> Any:
                batches.append(None)
                if len(batches) == 2 and not (folder / "ended").exists():
                    (folder / "ended").touch()
                    end()
                return encode_pixels(pixels_BCHW)

            self.tower.encode_pixels = second_batch_ends  # type: ignore[method-assign]
            try:
                return super().run(unit)
            finally:
                self.tower.encode_pixels = encode_pixels  # type: ignore[method-assign]

    return Ends


ENDS: dict[str, Callable[[], object]] = {
    "os._exit": lambda: os._exit(1),
    "sys.exit": lambda: sys.exit(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(3600),
}


@pytest.mark.parametrize(
    "end", ["SIGKILL", "hang", *(pytest.param(end, marks=pytest.mark.faults) for end in ("os._exit", "sys.exit"))]
)
def test_an_actor_that_ends_in_the_midst_of_a_shard_costs_that_shard(
    end: str,
    ray: None,
    tower_dir: Path,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without `_lose` in infra.ray_pool the error of the death would end the step, or the hang never would."""
    monkeypatch.setattr(step, "Encoder", encoder_that_ends_once(ENDS[end], tmp_path))
    if end == "hang":
        workspace = with_actors(workspace, ACTORS.model_copy(update={"stuck_seconds": 45}))
    pictures = [noise(number) for number in range(10)]
    dataset = store_images(workspace.store, [pictures[:4], pictures[4:8], pictures[8:]])
    features = encode(dataset, tower_dir, workspace)
    assert sorted((tmp_path / "units").read_text().split()) == ["2", "4", "4", "4"], "three shards, one of them twice"
    assert features.counts == {"rows_out": 10, "encoded": 10, "reused": 0}
    assert [part.num_rows for part in features.parts_of("features")].count(4) == 2
    assert_features_are_those_of_each_image_alone(features, dataset, tower_dir, workspace)


@pytest.mark.shared_data
def test_real_photos_through_a_real_tower(ray: None, shared_data: Path, workspace: Workspace) -> None:
    photos = [path.read_bytes() for path in sorted((shared_data / "coco_mini" / "images").iterdir())[:6]]
    dataset = store_images(workspace.store, [photos[:3], photos[3:]])
    folder = shared_data / "weights" / "mobilenet_v2_hf_fp16"
    features = encode(dataset, folder, workspace)
    assert features.counts == {"rows_out": 6, "encoded": 6, "reused": 0}
    assert_features_are_those_of_each_image_alone(features, dataset, folder, workspace)


def test_an_actor_computes_with_the_threads_of_the_profile(
    ray: None, tower_dir: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would set OMP_NUM_THREADS=1, and bits depend on it."""

    class Tells(Encoder):
        def run(self, unit: Unit) -> list[dict[str, Any]]:
            import torch

            (tmp_path / "told").write_text(f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")
            return super().run(unit)

    monkeypatch.setattr(step, "Encoder", Tells)
    two = ActorResources(num_actors=1, threads_per_actor=2, rows_per_batch=2)
    workspace = with_actors(workspace, two)
    dataset = store_images(workspace.store, [[noise(0)]])
    assert_features_are_those_of_each_image_alone(encode(dataset, tower_dir, workspace), dataset, tower_dir, workspace)
    assert (tmp_path / "told").read_text() == "2 2"
