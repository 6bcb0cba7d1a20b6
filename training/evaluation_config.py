"""What decides the scores of a model, besides the model and the test rows."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from data_prep.corruptions import Corruption
from infra.outputs import Manifest
from training.generation import GenerationConfig, Greedy, Strategy


class FewShotConfig(BaseModel):
    """Train examples shown before each question that is answered by text (Tsimpoukelis et al. 2021).

    Controls replace the question's image alone: by another test image, or by the mean prefix."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    examples: int = Field(ge=1, le=64)
    """Shots before each question. Each takes a prefix and its text of the language model's positions."""
    seed: int = Field(default=0, ge=0)
    """Which train examples they are."""


class EvaluationConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    max_new_tokens: int = Field(default=32, gt=0)
    """Longer texts are cut here."""
    strategy: Strategy = Field(default=Greedy(), discriminator="kind")
    """How tokens are chosen."""
    few_shot: FewShotConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """None shows the question alone, and is not part of a fingerprint."""
    max_test_images: int | None = Field(default=None, gt=0)
    """Bounds the time of an evaluation: the first so many test images by id. None takes all."""
    control_seed: int = Field(default=0, ge=0)
    """Which other image each example gets in the control."""
    corruptions: tuple[Corruption, ...] = ()
    """Scores are measured with pictures made worse in these ways too. Each is as many encodes and replies again."""
    max_corrupted_images: int = Field(default=256, gt=0)
    """That this is measured on: the first so many test images by id."""
    gallery_examples: int = Field(default=8, ge=0)
    """Pictures per group (best, worst, seeded selection) in the report."""

    @property
    def generation(self) -> GenerationConfig:
        """What decides the texts; the rest decides what becomes of them."""
        return GenerationConfig(max_new_tokens=self.max_new_tokens, strategy=self.strategy)


def yardstick(evaluation: Manifest) -> tuple[Any, ...]:
    """Equal where scores may be compared: the same test rows, behind the same shots, by the same configuration."""
    inputs = evaluation.inputs
    return inputs["test_digest"], inputs.get("dataset_digest"), evaluation.step_version, evaluation.config
