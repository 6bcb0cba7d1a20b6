"""The mappers a recipe can name."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _MapperConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix_tokens: int = Field(gt=0)
    """K: vectors put before the text. More carry more detail and cost attention in every branch."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """For small datasets. The draws are a function of seed, global step and rank."""


class LinearConfig(_MapperConfig):
    """One matrix. What a bigger mapper has to beat."""

    kind: Literal["linear"]
    pooling: Literal["mean", "patches"] = "mean"
    """`mean`: K vectors from the mean of the patches. `patches`: one vector from each patch (LLaVA 1), so that
    prefix_tokens has to be the tower's number of patches."""


class MlpConfig(_MapperConfig):
    """ClipCap's multilayer perceptron: all K vectors from one vector."""

    kind: Literal["mlp"]
    width: int = Field(gt=0)
    """Hidden width. ClipCap takes K * D / 2."""
    pooling: Literal["mean", "flatten"] = "mean"
    """How P patches become one vector. `flatten` keeps places, and costs P * V * width parameters."""


class _AttendingConfig(_MapperConfig):
    width: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=2.0, gt=0)
    """Hidden width of the blocks' perceptrons, in units of width. ClipCap takes 2, Flamingo 4."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "_AttendingConfig":
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}; change one of them")
        return self


class TransformerConfig(_AttendingConfig):
    """ClipCap's transformer: K learned constants and the patches attend to each other."""

    kind: Literal["transformer"]


class ResamplerConfig(_AttendingConfig):
    """Flamingo's Perceiver resampler: K learned latents read the patches, which stay as they are. Cheaper than the
    transformer where patches are many."""

    kind: Literal["resampler"]


MapperConfig = LinearConfig | MlpConfig | TransformerConfig | ResamplerConfig
