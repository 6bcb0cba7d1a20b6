"""The mappers a recipe can name."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _MapperConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix_tokens: int = Field(gt=0)
    """K: vectors put before the text. More carry more detail and cost attention in every branch."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """For small datasets. The draws are a function of seed, global step and rank."""


class MlpConfig(_MapperConfig):
    """ClipCap's multilayer perceptron: all K vectors from one vector."""

    kind: Literal["mlp"]
    width: int = Field(gt=0)
    """Hidden width. ClipCap takes K * D / 2."""
    pooling: Literal["mean", "flatten"] = "mean"
    """How P patches become one vector. `flatten` keeps places, and costs P * V * width parameters."""


class TransformerConfig(_MapperConfig):
    """ClipCap's transformer: K learned constants attend to the patches."""

    kind: Literal["transformer"]
    width: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=2.0, gt=0)
    """Hidden width of the blocks' perceptrons, in units of width. ClipCap takes 2."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TransformerConfig":
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}; change one of them")
        return self


MapperConfig = MlpConfig | TransformerConfig
