"""What decides the weights of a training."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.mappers.config import MapperConfig

DEFAULT_PROMPTS = {"caption": "caption:", "vqa": "question: {prompt} answer:"}


class TrainConfig(BaseModel):
    """Mapper, objectives and schedule of one training. The tower and the language model stay frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mapper: Annotated[MapperConfig, Field(discriminator="kind")]
    """What is trained. Its prefix length is paid for in every forward pass, now and when serving."""
    global_batch_images: int = Field(gt=0)
    """Images per global step, over all ranks. Images and not examples, because the examples of an image share
    its prefix. Fixed here, so that ranks and micro batches can change without changing the training."""
    epochs: int = Field(gt=0)
    """Every train image comes once per epoch. The last global batch of an epoch may be smaller; it is kept."""
    learning_rate: float = Field(gt=0)
    """The peak. A mapper from scratch takes about 1e-3."""
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
    prompts: dict[str, str] = DEFAULT_PROMPTS
    """Text before the target, by task; {prompt} is the example's own. Tasks that are not named are not trained."""
    task_weights: dict[str, float] = {"caption": 1.0, "vqa": 1.0}
    """Weight of a target token of each task in the loss. A task without a weight counts 1, with weight 0 nothing."""
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
    """More than one, because the newest may turn out damaged."""

    @model_validator(mode="after")
    def _tasks_have_prompts(self) -> "TrainConfig":
        asked = self.task_weights if "task_weights" in self.model_fields_set else {}
        unknown = sorted(task for task, weight in asked.items() if weight > 0 and task not in self.prompts)
        if unknown:
            raise ValueError(f"task_weights names {unknown}, which prompts lacks; add a prompt or set the weight to 0")
        if not any(self.weight_of(task) > 0 for task in self.prompts):
            raise ValueError("every task has weight 0; expected at least one above 0")
        return self

    def weight_of(self, task: str) -> float:
        return self.task_weights.get(task, 1.0)
