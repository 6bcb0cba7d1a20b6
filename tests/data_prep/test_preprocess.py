"""Pixels are those of the checkpoint's own processor, whatever runs ahead, in whichever thread."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from data_prep.images import decode
from data_prep.preprocess import IMAGES_PER_TASK, pixel_batches
from data_prep.tower import FeatureConfig, Tower
from data_prep.views import view_names, view_of
from infra.errors import DataError

PROCESSORS = {
    "vit": ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "siglip": SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    "mobilenet": MobileNetV2ImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
}
BATCH_SIZE = 6


def picture(number: int) -> bytes:
    """JPEGs and PNGs of several shapes and modes."""
    width, height = [(50, 40), (40, 61), (33, 33), (20, 90)][number % 4]
    pixels = np.random.default_rng(number).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height)).convert(["RGB", "L", "CMYK", "RGB"][number % 4])
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG" if number % 3 else "TIFF")
    return buffer.getvalue()


PICTURES = [(f"{number:064x}", picture(number)) for number in range(17)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(**small, image_size=32, patch_size=16), add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(params=sorted(PROCESSORS))
def tower_dir(request: pytest.FixtureRequest, model_dir: Path) -> Path:
    PROCESSORS[request.param].save_pretrained(model_dir)
    return model_dir


def tower(folder: Path, **config: Any) -> Tower:
    return Tower(folder, FeatureConfig.model_validate(config), BATCH_SIZE, "cpu")


def rows_of(loaded: Tower, threads: int) -> dict[tuple[str, str], np.ndarray]:
    found: dict[tuple[str, str], np.ndarray] = {}
    for batch in pixel_batches(iter(PICTURES), loaded, threads):
        assert len(batch.image_ids) == len(batch.pixels_BCHW) <= BATCH_SIZE
        found |= dict(zip(zip(batch.image_ids, batch.views, strict=True), batch.pixels_BCHW, strict=True))
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_are_those_of_the_processor_called_by_hand(tower_dir: Path, threads: int) -> None:
    found = rows_of(tower(tower_dir), threads)
    assert [image_id for image_id, _ in found] == [image_id for image_id, _ in PICTURES]
    by_hand = AutoImageProcessor.from_pretrained(tower_dir)
    for image_id, data in PICTURES:
        (expected_CHW,) = by_hand(images=decode(data), return_tensors="pt")["pixel_values"]
        assert torch.equal(torch.from_numpy(found[image_id, "original"]), expected_CHW)


def test_each_view_is_processed_like_an_image(tower_dir: Path) -> None:
    found = rows_of(tower(tower_dir, views=2, view_seed=7), 2)
    assert list(found) == [(image_id, view) for image_id, _ in PICTURES for view in view_names(2)]
    by_hand = AutoImageProcessor.from_pretrained(tower_dir)
    for image_id, data in PICTURES:
        for number, name in enumerate(view_names(2)):
            view = view_of(decode(data), image_id, number, 7)
            expected_CHW = by_hand(images=view, return_tensors="np")["pixel_values"][0]
            np.testing.assert_array_equal(found[image_id, name], expected_CHW)


def test_an_image_that_cannot_be_decoded_is_named(model_dir: Path) -> None:
    PROCESSORS["vit"].save_pretrained(model_dir)
    images = [*PICTURES[:5], ("b" * 64, b"no image"), *PICTURES[5:]]
    with pytest.raises(DataError, match=r"^image bbbbbbbbbbbb…: 8 bytes that begin with b'no image' were found"):
        list(pixel_batches(images, tower(model_dir), 2))


def test_the_next_batch_is_made_while_the_tower_works_and_no_more(model_dir: Path) -> None:
    """However many images there are, the reader is at most a batch and a few tasks ahead."""
    PROCESSORS["vit"].save_pretrained(model_dir)
    num_taken = 0

    def endless() -> Iterator[tuple[str, bytes]]:
        nonlocal num_taken
        while True:
            num_taken += 1
            yield PICTURES[num_taken % len(PICTURES)]

    batches = pixel_batches(endless(), tower(model_dir), 2)
    for number in range(1, 20):
        next(batches)
        assert BATCH_SIZE * (number + 1) <= num_taken <= BATCH_SIZE * (number + 2) + 4 * IMAGES_PER_TASK
    batches.close()
