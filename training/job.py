"""What a rank is told: everything it needs, as JSON, with absolute paths."""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from infra.errors import ConfigError
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

    @property
    def inputs(self) -> dict[str, str]:
        """What a checkpoint has to have been trained on."""
        return {
            "dataset_digest": self.dataset.identity["dataset_digest"],
            "encoder_key": self.features.identity["encoder_key"],
        }


class Link(Protocol):
    """How a rank talks to whoever started it."""

    def report(self, step: int, num_steps: int, note: str, /) -> None:
        """`step` of `num_steps` global steps are done. Must not block."""

    def stopping(self) -> bool:
        """True once somebody asked to stop. Must not block."""


def check_inputs(job: TrainJob, step: int, inputs: dict[str, str]) -> None:
    """Raises ConfigError where the checkpoint of `step` was trained on other inputs than the job's."""
    for name, found in inputs.items():
        if found != job.inputs[name]:
            raise ConfigError(
                f"{job.store_uri}/{checkpoint_prefix(job.fingerprint)}: the checkpoint of step {step} was trained with "
                f"{name} {found[:12]}…; expected {job.inputs[name][:12]}…, which the job names. Start with the job "
                "that `frostline run` writes, or use another store."
            )


def checkpoint_prefix(fingerprint: str) -> str:
    return f"train/checkpoints/{fingerprint}"
