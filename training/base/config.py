"""What decides the bytes of the base models: a small language model and a small vision tower."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_prep.sources.scene_text import GRID


class ScheduleConfig(BaseModel):
    """One supervised training: length, batch and learning rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(gt=0)
    batch_scenes: int = Field(gt=0)
    """Scenes per optimizer step."""
    learning_rate: float = Field(gt=0)
    """The peak; warm-up before it, a cosine to a twentieth of it after."""
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)


class LanguageModelConfig(BaseModel):
    """A causal language model that answers over a written description of a scene."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_tokens: int = Field(ge=280)
    """Upper bound: byte-pair merges stop earlier when the text has no more pairs. 256 are bytes."""
    width: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    context_tokens: int = Field(default=128, ge=32)
    num_scenes: int = Field(gt=0)
    """Scenes in the corpus. Fewer are learned by heart."""
    description_vectors: int = Field(ge=12)
    """Length of a description: a spelled one has up to 12 words. About the length of the prefix to come, so that
    the distances are familiar."""
    folded_share: float = Field(ge=0, le=1)
    """Share of descriptions whose words are folded, one vector per item (the sum of its words'
    embeddings), as a mapper's output will be. The others are spelled, one vector per word."""
    noise: float = Field(ge=0)
    """Noise on description vectors, in units of the embeddings' spread: a prefix is never exact."""
    schedule: ScheduleConfig

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "LanguageModelConfig":
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width {self.width} over {self.num_heads} heads is not an even number per head; "
                f"set width to a multiple of {2 * self.num_heads}"
            )
        return self


class TowerConfig(BaseModel):
    """A convolutional vision tower with one patch per cell of the canvas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size_px: int = Field(gt=0)
    """Side of the pictures. The stem and each stage halve it; one patch per cell of the 3 x 3 canvas must remain."""
    stem_width: int = Field(ge=8)
    """With 4, torch 2.13 (its oneDNN) wrote outside its buffers in the backward of a convolution, on an AMD EPYC that
    has AVX2 and no AVX-512."""
    stage_widths: tuple[int, ...] = Field(min_length=1)
    """The last is the vision width V."""
    stage_layers: tuple[int, ...] = Field(min_length=1)
    shift_px: int = Field(ge=0)
    """Pictures are shifted by up to this much, up and sideways, differently at each step."""
    schedule: ScheduleConfig

    @model_validator(mode="after")
    def _one_patch_per_cell(self) -> "TowerConfig":
        if len(self.stage_widths) != len(self.stage_layers):
            raise ValueError(
                f"stage_widths has {len(self.stage_widths)} stages and stage_layers {len(self.stage_layers)}; "
                "expected as many of each"
            )
        expected_px = GRID * 2 ** (1 + len(self.stage_widths))
        if self.image_size_px != expected_px:
            raise ValueError(
                f"image_size_px {self.image_size_px} with {len(self.stage_widths)} stages; expected {expected_px}, "
                f"so that {GRID} x {GRID} patches remain. Change the size or the number of stages"
            )
        return self


class BaseConfig(BaseModel):
    """Both base models of the quickstart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    language_model: LanguageModelConfig
    tower: TowerConfig
