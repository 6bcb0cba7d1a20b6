"""The drift trigger on real photos: silent on draws from one set, loud on the same photos in inverted colours."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_prep.drift import measure_drift
from data_prep.tower import FeatureConfig, Tower
from training.retrain_rule import WatchRule

NUM_PHOTOS = 360
NUM_NEW = 60
NUM_DRAWS = 50
P_VALUE = WatchRule().drift_p_value or 0.0


def encoded(photos: list[bytes], folder: Path) -> NDArray[np.float32]:
    """float32[N, V], as `mean_features` gives them."""
    torch.set_num_threads(2)
    tower = Tower(folder, FeatureConfig(), 16, "cpu")
    batches = [tower.encode(photos[first : first + 16]) for first in range(0, len(photos), 16)]
    return np.concatenate(batches).mean(axis=1, dtype=np.float32)


def inverted(photo: bytes) -> bytes:
    buffer = io.BytesIO()
    ImageOps.invert(Image.open(io.BytesIO(photo)).convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[bytes]:
    found: list[bytes] = []
    for path in sorted((shared_data / "ucm_captions").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    assert len(found) >= NUM_PHOTOS
    order = np.random.default_rng(0).permutation(len(found))  # the tars are sorted by class
    return [found[place] for place in order[:NUM_PHOTOS]]


@pytest.mark.slow
@pytest.mark.shared_data
def test_it_fires_on_inverted_photos_and_on_few_draws_from_the_same_set(photos: list[bytes], shared_data: Path) -> None:
    folder = shared_data / "weights" / "mobilenet_v2_hf_fp16"
    features_NV = encoded(photos, folder)
    p_values = []
    for seed in range(NUM_DRAWS):
        order = np.random.default_rng(seed).permutation(NUM_PHOTOS)
        p_values.append(measure_drift(features_NV[order[NUM_NEW:]], features_NV[order[:NUM_NEW]]).p_value)
    alarms = sum(p_value < P_VALUE for p_value in p_values)
    shifted_NV = encoded([inverted(photo) for photo in photos[:NUM_NEW]], folder)
    shifted = measure_drift(features_NV[NUM_NEW:], shifted_NV)
    print(
        f"\nfalse alarms: {alarms} of {NUM_DRAWS}, at p < 0.05: {sum(p < 0.05 for p in p_values)}; inverted: {shifted}"
    )
    assert alarms <= 0.05 * NUM_DRAWS
    assert 0.3 < np.mean(p_values) < 0.7, "p-values of equal sets are spread evenly"
    assert shifted.p_value < P_VALUE


def test_a_p_value_is_the_same_each_time_and_tells_a_shift_from_none() -> None:
    generator = np.random.default_rng(0)
    trained_NV = generator.normal(size=(200, 8)).astype(np.float32)
    equal_MV = generator.normal(size=(40, 8)).astype(np.float32)
    equal, shifted = measure_drift(trained_NV, equal_MV), measure_drift(trained_NV, equal_MV + 1)
    assert equal == measure_drift(trained_NV, equal_MV)
    assert (equal.num_trained, equal.num_new) == (200, 40)
    assert equal.p_value > 0.05 and shifted.p_value == 1 / 2000
    assert shifted.discrepancy > equal.discrepancy >= 0


def test_images_that_are_all_alike_are_no_drift() -> None:
    assert measure_drift(np.ones((30, 4), np.float32), np.ones((20, 4), np.float32)).p_value == 1
