"""Terms beside the objectives, and noise, that keep a small mapper from learning its training set by heart."""

from pydantic import BaseModel, ConfigDict, Field


class ConsistencyConfig(BaseModel):
    """Hidden states where the answer is read must not depend on how the image was taken: ‖h(x, v) − h(x, v′)‖² / D."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    weight: float = Field(gt=0)
    view: str | None = None
    """A view that featurize stored beside the original. None perturbs the features with noise instead."""
    noise: float = Field(default=0.1, gt=0)
    """Of the perturbation, in units of the features' root mean square. Not used with a view."""


class AdversarialConfig(BaseModel):
    """The loss at the worst point of a ball around the features, after FreeLB (Zhu et al. 2020)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    weight: float = Field(gt=0)
    radius: float = Field(default=0.1, gt=0)
    """Of the ball around each image's features, in units of their norm."""
    num_steps: int = Field(default=1, gt=0)
    """Ascents; each costs one more forward and backward."""


class RegularisersConfig(BaseModel):
    """All off by default. Validation and answers never see them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    consistency: ConsistencyConfig | None = None
    adversarial: AdversarialConfig | None = None
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of target tokens and of the classes of a head."""
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an image's patches that are left out (set to 0) in a global step."""
    feature_noise: float = Field(default=0.0, ge=0)
    """Normal noise on features, in units of their root mean square."""
