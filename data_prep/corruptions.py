"""Pictures made worse on purpose, to see how far a model's scores fall.

Kinds and severities are those of Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", of pictures of 224 pixels. Shapes: H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from data_prep.images import decode
from infra.digests import digest_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

CorruptionKind = Literal["gaussian_noise", "gaussian_blur", "jpeg", "pixelate", "brightness", "contrast"]


class Corruption(BaseModel):
    """One way to make a picture worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: CorruptionKind
    severity: int = Field(default=3, ge=1, le=5)

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.severity}"

    @classmethod
    def named(cls, name: str) -> Corruption:
        kind, _, severity = name.partition(":")
        return cls.model_validate({"kind": kind, "severity": int(severity)})


def corrupted(data: bytes, image_id: str, corruption: Corruption) -> bytes:
    """PNG of the picture made worse. Noise follows from the image and the corruption alone. Raises DataError for what
    cannot be decoded."""
    import numpy as np

    seed = int(digest_json([image_id, corruption.name])[:16], 16)
    worse = _WORSE[corruption.kind](decode(data), corruption.severity - 1, np.random.default_rng(seed))
    buffer = io.BytesIO()
    worse.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _gaussian_noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    pixels_HW3 = _pixels(image)
    return _image(pixels_HW3 + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[severity], size=pixels_HW3.shape))


def _gaussian_blur(image: Image, severity: int, _: np.random.Generator) -> Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur((1, 2, 3, 4, 6)[severity]))


def _jpeg(image: Image, severity: int, _: np.random.Generator) -> Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=(25, 18, 15, 10, 7)[severity])
    return decode(buffer.getvalue())


def _pixelate(image: Image, severity: int, _: np.random.Generator) -> Image:
    from PIL.Image import Resampling

    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity]
    small = image.resize((max(1, int(image.width * share)), max(1, int(image.height * share))), Resampling.BOX)
    return small.resize(image.size, Resampling.NEAREST)


def _brightness(image: Image, severity: int, _: np.random.Generator) -> Image:
    import numpy as np
    from PIL.Image import fromarray

    hsv_HW3 = np.asarray(image.convert("HSV"), np.float32)
    hsv_HW3 = hsv_HW3 + np.array([0, 0, 255 * (0.1, 0.2, 0.3, 0.4, 0.5)[severity]], np.float32)
    return fromarray(hsv_HW3.clip(0, 255).astype(np.uint8), mode="HSV").convert("RGB")


def _contrast(image: Image, severity: int, _: np.random.Generator) -> Image:
    pixels_HW3 = _pixels(image)
    mean_3 = pixels_HW3.mean(axis=(0, 1), keepdims=True)
    return _image((pixels_HW3 - mean_3) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity] + mean_3)


def _pixels(image: Image) -> NDArray[np.float64]:
    """0..1"""
    import numpy as np

    return np.asarray(image, np.float64) / 255


def _image(pixels_HW3: NDArray[np.float64]) -> Image:
    import numpy as np
    from PIL.Image import fromarray

    return fromarray((pixels_HW3.clip(0, 1) * 255).round().astype(np.uint8))


_WORSE: dict[str, Callable[[Image, int, np.random.Generator], Image]] = {
    "gaussian_noise": _gaussian_noise,
    "gaussian_blur": _gaussian_blur,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
    "brightness": _brightness,
    "contrast": _contrast,
}
assert set(_WORSE) == set(get_args(CorruptionKind))
