"""Smaller copies of large images, made at ingest where a recipe asks for them."""

import io

from pydantic import BaseModel, ConfigDict, Field

from data_prep.images import opened, to_rgb, turn_of

REENCODE_VERSION = 1
"""Part of a fingerprint that covers `Reencode`: raise it when the same image becomes other bytes."""


class Reencode(BaseModel):
    """What decides the stored bytes of images with a side above the cap. The others are stored as they came."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_side_px: int = Field(ge=32, le=16_384)
    quality: int = Field(default=90, ge=50, le=95)
    """Of the JPEG. Below 50 the pictures fall apart; above 95 files grow and look the same (Pillow's documentation)."""


def reencode(data: bytes, config: Reencode) -> bytes | None:
    """The image as an upright RGB JPEG of at most that side and without metadata; None where it is no larger.

    Raises like `images.decode`, also for truncated bytes of an image that is large."""
    from PIL.Image import Resampling

    cap = (config.max_side_px, config.max_side_px)
    with opened(data) as image:
        if max(image.size) <= config.max_side_px:
            return None
        image.draft(None, (2 * config.max_side_px, 2 * config.max_side_px))  # of JPEG, so that few pixels are decoded
        image.load()
        turn = turn_of(image)
        rgb = to_rgb(image)
    rgb.thumbnail(cap, Resampling.LANCZOS, reducing_gap=None)
    buffer = io.BytesIO()
    (rgb if turn is None else rgb.transpose(turn)).save(buffer, "JPEG", quality=config.quality)
    return buffer.getvalue()
