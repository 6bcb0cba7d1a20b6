"""What a rank is told: everything it needs, as JSON, with absolute paths."""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from infra.outputs import Manifest
from infra.settings import TrainResources
from training.config import TrainConfig


class Tracking(BaseModel):
    """The training run that rank 0 logs to while it trains."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str
    experiment: str
    tags: dict[str, str] = {}


class TrainJob(BaseModel):
    """One training. Two processes with equal jobs do the same work."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    config: TrainConfig
    resources: TrainResources
    fingerprint: str
    """Names the checkpoints."""
    dataset: Manifest
    features: Manifest
    language_model_dir: Path
    store_uri: str
    cache_dir: Path
    tracking: Tracking | None = None


class Link(Protocol):
    """How a rank talks to whoever started it."""

    def report(self, step: int, num_steps: int, note: str, /) -> None:
        """`step` of `num_steps` global steps are done. Must not block."""

    def stopping(self) -> bool:
        """True once somebody asked to stop. Must not block."""


def checkpoint_prefix(fingerprint: str) -> str:
    return f"train/checkpoints/{fingerprint}"
