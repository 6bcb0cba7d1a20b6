"""Pictures made worse: the same way every time, the more the higher the severity, and the size stays."""

import io
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from data_prep.corruptions import Corruption, CorruptionKind, corrupted
from data_prep.images import decode


def photo() -> bytes:
    """A gradient and fine grain."""
    y, x = np.mgrid[0:96, 0:128]
    grain = np.random.default_rng(0).integers(0, 256, size=(96, 128))
    pixels = np.stack([x * 2, y * 2, grain], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def distance(kind: str, severity: int, image_id: str = "a") -> float:
    worse = decode(corrupted(photo(), image_id, Corruption(kind=kind, severity=severity)))
    assert worse.size == (128, 96) and worse.mode == "RGB"
    return float(np.abs(np.asarray(worse, float) - np.asarray(decode(photo()), float)).mean())


@pytest.mark.parametrize("kind", get_args(CorruptionKind))
def test_a_higher_severity_changes_more(kind: str) -> None:
    distances = [distance(kind, severity) for severity in range(1, 6)]
    assert distances[0] > 0.5 and distances == sorted(distances), distances


@pytest.mark.parametrize("kind", get_args(CorruptionKind))
def test_the_same_picture_gets_the_same_bytes(kind: str) -> None:
    corruption = Corruption(kind=kind)
    assert Corruption.named(corruption.name) == corruption
    assert corrupted(photo(), "a", corruption) == corrupted(photo(), "a", corruption)


def test_noise_differs_between_images() -> None:
    noise = Corruption(kind="gaussian_noise")
    assert corrupted(photo(), "a", noise) != corrupted(photo(), "b", noise)
