"""The objectives a recipe can name. Each is a weighted mean over the global batch; the loss is their weighted sum."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _ObjectiveConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    weight: float = Field(default=1.0, gt=0)
    """Of this objective's mean loss in the sum. Units differ: a token's likelihood is not a squared error."""


class CaptionConfig(_ObjectiveConfig):
    """Likelihood of the captions' tokens."""

    prompt: str = "caption:"
    """Text before the target; {prompt} is the example's own."""


class VqaConfig(_ObjectiveConfig):
    """Likelihood of the answers' tokens."""

    prompt: str = "question: {prompt} answer:"


class ClassifyConfig(_ObjectiveConfig):
    """The example's label: as text that the language model scores, or by a head over the labels of the train split."""

    by: Literal["text", "head"] = "text"
    """`text` can name labels that training never saw; `head` is one multiplication."""
    prompt: str = "label:"


class RegressConfig(_ObjectiveConfig):
    """The example's numbers, by a head, in units of their standard deviation over the train split."""

    loss: Literal["mse", "huber"] = "mse"
    """`huber` bends at one standard deviation: for numbers with outliers."""
    prompt: str = ""
    """Without one the head reads at the end of the prefix, which costs no position."""


class ContrastConfig(_ObjectiveConfig):
    """Captions told apart from those of the other images of the global batch, as CoCa does beside captioning."""

    loss: Literal["siglip", "infonce"] = "siglip"
    """SigLIP decides each pair alone; its bias starts for large global batches. InfoNCE ranks a text among all of the
    batch, and got further in trainings of a few hundred steps (cifar10 by prompts after 96: 0.71 against 0.63)."""
    width: int = Field(default=256, gt=0)
    """Of the space in which image and text vectors are compared."""


class ObjectivesConfig(BaseModel):
    """What is learnt together in one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    caption: CaptionConfig | None = None
    vqa: VqaConfig | None = None
    classify: ClassifyConfig | None = None
    regress: RegressConfig | None = None
    contrast: ContrastConfig | None = None

    @model_validator(mode="after")
    def _some(self) -> "ObjectivesConfig":
        if not self.names:
            raise ValueError("no objective is named; expected at least one of " + ", ".join(type(self).model_fields))
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of O everywhere."""
        return tuple(sorted(name for name in type(self).model_fields if getattr(self, name) is not None))
