"""What decides the scores of a model, besides the model and the test rows."""

from pydantic import BaseModel, ConfigDict, Field


class EvaluationConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    max_new_tokens: int = Field(default=32, gt=0)
    """Longer texts are cut here."""
    max_test_images: int | None = Field(default=None, gt=0)
    """Bounds the time of an evaluation: the first so many test images by id. None takes all."""
    control_seed: int = Field(default=0, ge=0)
    """Which other image each example gets in the control."""
    gallery_examples: int = Field(default=8, ge=0)
    """Pictures per group (best, worst, seeded selection) in the report."""
