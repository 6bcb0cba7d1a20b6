"""What decides the rows of a dataset."""

from pydantic import BaseModel, ConfigDict, Field

from data_prep.reencode import Reencode
from data_prep.sources import SourceConfig


class SplitFractions(BaseModel):
    """Shares of images without a split of their own; the rest is train."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    val: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, le=1)


class IngestConfig(BaseModel):
    """What decides the rows of the dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sources: list[SourceConfig] = Field(min_length=1)
    split_fractions: SplitFractions = SplitFractions()
    near_duplicate_distance: int = Field(default=0, ge=0, le=16)
    """Train and val images whose perceptual hash differs from a test image's in at most so many of its 64 bits are
    left out of training."""
    reencode: Reencode | None = None
    """Store larger images smaller. None keeps the source bytes."""
    max_image_memory_bytes: int = Field(default=2**30, ge=512 * 2**20)
    """Of the process that decodes an image, of which 150 MB are Python's and the libraries'. More is quarantined."""
    max_image_seconds: float = Field(default=5, gt=0)
    """CPU time of decoding one image. More is quarantined."""
    images_per_shard: int = Field(default=512, gt=0)
    """How much is done again after a crash, at most; and the unit of work of `featurize`."""
    max_quarantined_fraction: float = Field(default=0.05, ge=0, le=1)
    """More bad rows than this stop the step: then the source is broken, not a few rows."""
