"""Every kind of tower through save and load: what of its hidden state each pooling keeps.

Shapes: N tokens, P patches, R × C the patch grid, V vision width.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_towers import KINDS, save_tower
from transformers import ViTImageProcessorPil

from data_prep.images import decode
from data_prep.pooling import pool
from data_prep.tower import FeatureConfig, Tower, feature_shape
from infra.errors import ConfigError


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind)
    save_tower(kind, folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def encoded(folder: Path, **config: Any) -> np.ndarray:
    tower = Tower(folder, FeatureConfig.model_validate(config), 2, "cpu")
    return tower.encode([picture(0), picture(1)]).astype(np.float32)


def tokens_of(folder: Path) -> np.ndarray:
    """The tower's own output as [B, N, V], a feature map unrolled row by row."""
    tower = Tower(folder, FeatureConfig(), 2, "cpu")
    pixels_BCHW = torch.from_numpy(tower.pixels([decode(picture(0)), decode(picture(1))]))
    with torch.inference_mode():
        hidden = tower.model(pixel_values=pixels_BCHW).last_hidden_state
    return (hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden).numpy()


def test_each_pooling_keeps_what_it_says(kind: str, folder: Path) -> None:
    num_tokens, side, width = KINDS[kind]
    tokens_BNV = tokens_of(folder)
    assert tokens_BNV.shape == (2, num_tokens + side * side, width)
    grid_BPV = tokens_BNV[:, num_tokens:]

    def close(found: np.ndarray, expected: np.ndarray) -> None:
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)

    close(encoded(folder), grid_BPV)
    assert feature_shape(folder, FeatureConfig()) == grid_BPV.shape[1:]
    close(encoded(folder, pooling="mean"), grid_BPV.mean(axis=1, keepdims=True))
    quarters = grid_BPV.reshape(2, 2, side // 2, 2, side // 2, width).mean(axis=(2, 4)).reshape(2, 4, width)
    close(encoded(folder, pooling="grid:2"), quarters)
    if num_tokens:
        close(encoded(folder, pooling="cls"), tokens_BNV[:, :1])
    else:
        with pytest.raises(ConfigError, match="no class token"):
            encoded(folder, pooling="cls")
    with pytest.raises(ConfigError, match=f"expected at most grid:{side}"):
        encoded(folder, pooling=f"grid:{side + 1}")
    assert encoded(folder, layer=-2).shape[0] == 2


def test_a_grid_that_does_not_divide_the_patches_averages_overlapping_cells() -> None:
    """7 × 7 patches to 2 × 2, as PyTorch's adaptive pooling does."""
    map_BVRC = torch.arange(49.0).reshape(1, 1, 7, 7)
    (found_PV,) = pool(map_BVRC, (224, 224), None, "grid:2")
    corners = [
        map_BVRC[0, 0, rows, columns].mean()
        for rows in (slice(0, 4), slice(3, 7))
        for columns in (slice(0, 4), slice(3, 7))
    ]
    assert found_PV[:, 0].tolist() == pytest.approx([float(mean) for mean in corners])


def test_the_grid_of_a_picture_that_is_not_square_is_its_own() -> None:
    tokens_BNV = torch.arange(9.0).reshape(1, 9, 1)  # a class token, 2 × 4 patches
    assert pool(tokens_BNV, (32, 64), 16, "patches")[0, :, 0].tolist() == list(range(1, 9))
    assert pool(tokens_BNV, (32, 64), 16, "grid:2")[0, :, 0].tolist() == [1.5, 3.5, 5.5, 7.5]
    with pytest.raises(ConfigError, match="no patch_size"):
        pool(tokens_BNV, (32, 64), None, "patches")


@pytest.mark.shared_data
def test_the_shape_of_a_tower_kept_in_fp16_is_known_from_its_configuration(shared_data: Path) -> None:
    folder = shared_data / "weights" / "mobilenet_v2_hf_fp16"
    assert feature_shape(folder, FeatureConfig()) == (49, 1280)
    assert feature_shape(folder, FeatureConfig(pooling="mean")) == (1, 1280)
