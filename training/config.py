"""What decides the weights of a training."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.mappers.config import MapperConfig
from training.objectives.config import CaptionConfig, ObjectivesConfig, VqaConfig
from training.regimes.config import PrefixRegime, RegimeConfig
from training.regularisers import RegularisersConfig


class StoppingConfig(BaseModel):
    """End before the last epoch when validation no longer gets better."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    metric: str = "val_loss"
    """A validation curve: `val_loss`, or of one objective, as `val_loss_vqa`. Less is better."""
    patience: int | None = Field(default=None, gt=0)
    """So many validations without a new best end the training. None trains all epochs."""
    export: Literal["last", "best", "average"] = "last"
    """Which trained parameters leave the training: the last, those of the best validation, or the mean of the last
    `average_checkpoints` checkpoints."""
    average_checkpoints: int = Field(default=4, gt=1)

    @property
    def needs_validation(self) -> bool:
        return self.patience is not None or self.export == "best"


class TrainConfig(BaseModel):
    """Mapper × regime × objectives, and the schedule of one training. The tower stays frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mapper: Annotated[MapperConfig, Field(discriminator="kind")] | None = None
    """From features to a prefix. Its length is paid for in every forward pass, now and when serving. The regime lit
    has none; all others need one."""
    regime: Annotated[RegimeConfig, Field(discriminator="kind")] = PrefixRegime()
    """What is trained besides the mapper. By default nothing."""
    objectives: ObjectivesConfig = ObjectivesConfig(caption=CaptionConfig(), vqa=VqaConfig())
    """What is learnt. Each needs examples in the train split; of the default two at least one does."""
    regularisers: RegularisersConfig = RegularisersConfig()
    stopping: StoppingConfig = StoppingConfig()
    global_batch_images: int = Field(gt=0)
    """Images per global step, over all ranks. Images and not examples, because the examples of an image share
    its prefix. Fixed here, so that ranks and micro batches can change without changing the training."""
    epochs: int = Field(gt=0)
    """Every train image comes once per epoch. The last global batch of an epoch may be smaller; it is kept."""
    learning_rate: float = Field(gt=0)
    """The peak, of the mapper and the heads. A mapper from scratch takes about 1e-3."""
    min_learning_rate_fraction: float = Field(default=0.05, ge=0, le=1)
    """Where the cosine ends, as a part of the peak. Above zero so that the last steps still count."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of all global steps with a rising learning rate, because Adam's moments are unreliable at first."""
    weight_decay: float = Field(default=0.01, ge=0)
    """On matrices only: decay of biases and norms shrinks the prefix for nothing."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's averages. A second one below 0.999 suits trainings of a few thousand steps."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Bound of the gradient's norm: one odd batch must not undo a hundred."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 keeps the language model in bf16 and computes under autocast; trained parameters stay fp32."""
    seed: int = Field(default=0, ge=0)
    """Initial weights, order of images, choice of targets, dropout."""
    max_targets_per_image: int = Field(default=16, gt=0)
    """Bounds memory where an image has many targets: each epoch takes another seeded choice of so many."""
    max_target_tokens: int = Field(default=64, gt=0)
    """Longer targets are cut here, without an end token, so that one long text does not pad a micro batch."""
    checkpoint_every_steps: int = Field(default=200, gt=0)
    """Work that a kill can cost."""
    validate_every_steps: int = Field(default=200, gt=0)
    """Distance of the points of the validation curve."""
    validation_images: int = Field(default=256, ge=0)
    """Images of the val split that a validation reads, first by id: enough for a curve. 0 validates nothing."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """More than one, because the newest may turn out damaged. Those that `stopping` exports are kept besides."""
    max_skipped_steps: int = Field(default=3, ge=0)
    """Global steps in a row whose loss is not finite and that are left out; one more ends the training."""

    @property
    def language_in_bf16(self) -> bool:
        """What is trained is fp32 in every precision, so a language model that is trained whole is."""
        return self.precision == "bf16" and self.regime.kind != "full"

    @model_validator(mode="after")
    def _stopping_has_validation(self) -> "TrainConfig":
        if self.stopping.needs_validation and self.validation_images == 0:
            raise ValueError("stopping needs validation; set validation_images above 0 or leave stopping out")
        known = ["val_loss", *(f"val_loss_{name}" for name in self.objectives.names)]
        if self.stopping.metric not in known:
            raise ValueError(f"stopping.metric is {self.stopping.metric!r}; expected one of {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _regime_has_its_parts(self) -> "TrainConfig":
        if self.regime.kind != "lit":
            if self.mapper is None:
                raise ValueError(f"mapper is missing; expected one with the regime {self.regime.kind}")
            return self
        if self.mapper is not None:
            raise ValueError("the regime lit has no mapper; leave it out")
        if self.objectives.names != ("contrast",):
            raise ValueError(f"the regime lit is trained by objectives.contrast alone; found {self.objectives.names}")
        if self.regularisers != RegularisersConfig():
            raise ValueError("the regime lit has no regularisers; leave them out")
        return self
