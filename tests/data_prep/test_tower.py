"""Towers: features are a function of the image's bytes alone; nothing from outside is executed.

Shapes: B images, P patches, V vision width.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from data_prep.images import decode
from data_prep.tower import FeatureConfig, Tower, encoder_key
from infra.errors import DataError, FrostlineError

MakePicture = Callable[[int], bytes]


def tower(folder: Path, batch_size: int = 4, **config: Any) -> Tower:
    return Tower(folder, FeatureConfig.model_validate(config), batch_size, "cpu")


@pytest.mark.parametrize("kind", ["vit_dir", "regnet_dir", "clip_dir"])
def test_features_are_the_same_bytes_whatever_the_neighbours(
    kind: str, request: pytest.FixtureRequest, make_picture: MakePicture
) -> None:
    loaded = tower(request.getfixturevalue(kind))
    images = [make_picture(number) for number in range(7)]
    together_BPV = loaded.encode(images)
    assert together_BPV.dtype == np.float16
    assert together_BPV.shape[0] == 7
    assert len({features.tobytes() for features in together_BPV}) == 7
    for number, data in enumerate(images):
        assert loaded.encode([data]).tobytes() == together_BPV[number].tobytes()
    assert loaded.encode(images[::-1])[::-1].tobytes() == together_BPV.tobytes()


def test_every_patch_of_the_last_layer_is_kept(vit_dir: Path, make_picture: MakePicture) -> None:
    import torch
    from transformers import ViTModel

    model = ViTModel.from_pretrained(vit_dir, add_pooling_layer=False).eval()
    loaded = tower(vit_dir, batch_size=1)
    pixels = loaded.processor(images=[decode(make_picture(0))], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        found = model(pixel_values=pixels, output_hidden_states=True)
    assert found.last_hidden_state.shape == (1, 5, 16)

    def close(features_BPV: Any, expected_BPV: Any) -> None:
        np.testing.assert_allclose(features_BPV.astype(np.float32), expected_BPV.numpy(), rtol=2e-3, atol=2e-3)

    close(loaded.encode([make_picture(0)]), found.last_hidden_state[:, 1:])
    close(tower(vit_dir, 1, layer=-2).encode([make_picture(0)]), found.hidden_states[-2][:, 1:])


def test_a_feature_map_is_unrolled_row_by_row(regnet_dir: Path, make_picture: MakePicture) -> None:
    import torch

    loaded = tower(regnet_dir, batch_size=1)
    pixels = loaded.processor(images=[decode(make_picture(0))], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        (map_VHW,) = loaded.model(pixel_values=pixels).last_hidden_state
    (features_PV,) = loaded.encode([make_picture(0)])
    width = map_VHW.shape[2]
    assert features_PV.shape == (map_VHW.shape[1] * width, 16)
    for patch, features_V in enumerate(features_PV):
        np.testing.assert_array_equal(features_V, map_VHW[:, patch // width, patch % width].to(torch.float16).numpy())


def test_only_the_vision_half_of_two_towers_is_used(clip_dir: Path, make_picture: MakePicture) -> None:
    loaded = tower(clip_dir)
    assert loaded.encode([make_picture(0)]).shape == (1, 4, 16)
    assert not any("text" in name for name, _ in loaded.model.named_parameters())


def test_a_tower_is_frozen(vit_dir: Path) -> None:
    loaded = tower(vit_dir)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_processor_that_keeps_each_images_shape_is_refused(vit_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(vit_dir, tmp_path / "shapes")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"shortest_edge": 16}}))
    assert "one size for all images" in refused(folder)


def test_bytes_that_are_no_image_are_a_data_error(vit_dir: Path, make_picture: MakePicture) -> None:
    with pytest.raises(DataError):
        tower(vit_dir).encode([make_picture(0), b"no image"])


def test_the_encoder_key_changes_with_all_that_decides_features() -> None:
    configs = [
        {},
        {"layer": -2},
        {"pooling": "mean"},
        {"pooling": "grid:2"},
        {"dtype": "bfloat16"},
        {"views": 1},
        {"views": 2},
        {"views": 1, "view_seed": 3},
    ]
    keys = {encoder_key("a" * 64, FeatureConfig.model_validate(config)) for config in configs}
    keys.add(encoder_key("b" * 64, FeatureConfig()))
    keys.add(encoder_key("a" * 64, FeatureConfig(), reencode_digest="c" * 64))
    assert len(keys) == len(configs) + 2


@pytest.mark.parametrize("config", [{"pooling": "none"}, {"pooling": "grid:0"}, {"view_seed": 3}, {"views": -1}])
def test_a_configuration_that_means_nothing_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FeatureConfig.model_validate(config)


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def refused(folder: Path) -> str:
    with pytest.raises(FrostlineError) as caught:
        tower(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_torn_weights_are_refused(vit_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(vit_dir, tmp_path / "torn")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(folder)
    weights.write_bytes(b"")
    refused(folder)


def test_weights_of_another_model_are_refused_and_not_replaced_by_random_ones(
    vit_dir: Path, regnet_dir: Path, tmp_path: Path
) -> None:
    folder = copy_of(vit_dir, tmp_path / "other")
    shutil.copy(regnet_dir / "model.safetensors", folder / "model.safetensors")
    assert "missing" in refused(folder)


def test_a_folder_without_a_processor_is_refused(vit_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(vit_dir, tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refused(folder)


class Bomb:
    """Pickled, this touches a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_pickled_weights_are_never_read(vit_dir: Path, tmp_path: Path) -> None:
    folder, marker = copy_of(vit_dir, tmp_path / "pickled"), tmp_path / "executed"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    refused(folder)
    assert not marker.exists()


def test_code_beside_the_weights_is_never_run(vit_dir: Path, tmp_path: Path) -> None:
    folder, marker = copy_of(vit_dir, tmp_path / "code"), tmp_path / "executed"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    for name, auto_class in (("config.json", "AutoModel"), ("preprocessor_config.json", "AutoImageProcessor")):
        config = json.loads((folder / name).read_text())
        config |= {"auto_map": {auto_class: "evil.Evil", "AutoConfig": "evil.Evil"}, "model_type": "evil"}
        (folder / name).write_text(json.dumps(config))
    refused(folder)
    assert not marker.exists()
