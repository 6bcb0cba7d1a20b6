"""The regimes a recipe can name: what is trained beside the mapper; or, in `lit`, without one."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

LABEL = "{label}"


class _RegimeConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PrefixRegime(_RegimeConfig):
    """Nothing of the language model: the mapper alone is trained."""

    kind: Literal["prefix"] = "prefix"


class LanguageModelRegime(_RegimeConfig):
    """Of the regimes that train something in or around the language model."""

    learning_rate: float = Field(gt=0)
    """Peak of what is trained on the language model's side. Its own, because a pretrained matrix breaks at what a new
    mapper needs: `full` takes about 1e-5, `lora`, `adapter` and `bitfit` 1e-4 to 1e-3, `prompt` 1e-2."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On matrices only. Zero, because decay pulls pretrained weights to zero and not to where they were."""
    mapper_first_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the global steps in which only the mapper trains, so that the language model does not adapt to the
    noise of a fresh mapper."""


class LoraRegime(LanguageModelRegime):
    """Low-rank updates of matrices (Hu et al. 2021), by PEFT."""

    kind: Literal["lora"]
    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=16, gt=0)
    """Updates are scaled by alpha / rank, so that another rank needs no other learning rate."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On what the updates read. The language model's own dropout stays off."""
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Names of the matrices, in full or by their last parts; none: PEFT's default for the type of model, mostly the
    query and value projections; `all-linear`: every matrix but the output's."""


class PromptRegime(LanguageModelRegime):
    """Soft prompt (Lester et al. 2021): learned vectors before everything else, by PEFT."""

    kind: Literal["prompt"]
    num_tokens: int = Field(gt=0)
    """They take positions, in every sequence."""


class BitfitRegime(LanguageModelRegime):
    """The biases (Ben Zaken et al. 2021)."""

    kind: Literal["bitfit"]
    norms: bool = False
    """The norms' gains too. Llama-like models have no biases, and nothing else to train here."""


class AdapterRegime(LanguageModelRegime):
    """A bottleneck after each decoder layer (Houlsby et al. 2019, in the places of Pfeiffer et al. 2020)."""

    kind: Literal["adapter"]
    width: int = Field(gt=0)
    """Of the bottleneck."""


class FullRegime(LanguageModelRegime):
    """The whole language model, in fp32; precision bf16 then is autocast alone."""

    kind: Literal["full"]


class LitRegime(_RegimeConfig):
    """LiT (Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning"): the recipe's language model is
    the text tower, there is no mapper, and the objective is `contrast`."""

    kind: Literal["lit"]
    learning_rate: float | None = Field(gt=0)
    """Peak of the text tower's; about 1e-4 where it is pretrained. None locks it, for very little data: then only the
    projections and the temperature are trained."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On the text tower's matrices only."""
    text_pooling: Literal["mean", "last", "first", "pooler"] = "mean"
    """How a text's tokens become one vector. `last` suits decoders, whose last token alone has read the whole text;
    `first` suits BERT's class token; `pooler` is what the checkpoint itself pools with (CLIP's end token, for one)."""
    image_projection: Literal["linear", "none"] = "linear"
    """`none` trains nothing on the image side; then objectives.contrast.width is the vision tower's own width."""
    templates: tuple[str, ...] = Field(default=("a photo of a {label}.",), min_length=1)
    """Texts made of a label. In training each is a text of the image; max_targets_per_image bounds how many at once."""

    @field_validator("templates")
    @classmethod
    def _name_the_label(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if without := [template for template in templates if LABEL not in template]:
            raise ValueError(f"{without[0]!r} has no {LABEL}; expected it where the label goes")
        return templates

    def texts_of(self, label: str) -> tuple[str, ...]:
        """One per template."""
        return tuple(template.replace(LABEL, label) for template in self.templates)


RegimeConfig = PrefixRegime | LoraRegime | PromptRegime | BitfitRegime | AdapterRegime | FullRegime | LitRegime
