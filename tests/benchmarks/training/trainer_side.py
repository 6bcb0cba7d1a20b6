"""The `transformers` Trainer on the same mapper, language model and texts, as one writes it for a captioner.

One padded sequence per target, features from memory. What could slow it down for nothing is off: no logging,
checkpoints, evaluation or cache of keys and values, the language model in eval mode.
Shapes: B sequences, P patches, V vision width, T text tokens, L prefix and text.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sides import serve
from steps import Marks
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from training.job import TrainJob
from training.setup import Prepared, prepare

IGNORED = -100


class Captioner(nn.Module):
    """Mapper before language model; the loss is the language model's own."""

    def __init__(self, mapper: nn.Module, lm: Any) -> None:
        super().__init__()
        self.mapper, self.lm = mapper, lm

    def train(self, mode: bool = True) -> "Captioner":
        super().train(mode)
        self.lm.eval()
        return self

    def forward(
        self, patches_BPV: Tensor, input_ids_BT: Tensor, attention_mask_BL: Tensor, labels: Tensor, **options: Any
    ) -> Any:
        """`options` is what the Trainer tells the loss: the number of targets in the global batch."""
        inputs = torch.cat([self.mapper(patches_BPV), self.lm.get_input_embeddings()(input_ids_BT)], dim=1)
        return self.lm(
            inputs_embeds=inputs, attention_mask=attention_mask_BL, labels=labels, use_cache=False, **options
        )


class Sequences(Dataset[dict[str, Any]]):
    """One per target, in the order of Frostline's global batches."""

    def __init__(self, prepared: Prepared, sorted_by_length: bool) -> None:
        config = prepared.job.config
        self.patches_NPV, self.items = [], []
        self.targets_by_step: list[int] = []
        for step in range(prepared.order.num_steps):
            images = prepared.order.batch(step)
            batch = []
            for image, patches_PV in zip(
                images, prepared.batcher.features.gather([image.image_id for image in images]), strict=True
            ):
                batch += [(branch, len(self.patches_NPV)) for branch in image.branches]
                self.patches_NPV.append(patches_PV)
            if sorted_by_length:
                batch.sort(key=lambda pair: -pair[0].num_inputs)
            self.items += batch
            self.targets_by_step.append(sum(len(branch.target_ids) for branch, _ in batch))
        self.prefix_tokens = config.mapper.prefix_tokens

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        branch, image = self.items[number]
        return {"patches": self.patches_NPV[image], "prompt": branch.prompt_ids, "target": branch.target_ids}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Padded on the right to the longest of these; labels where a target stands."""
        num_prefix = self.prefix_tokens
        longest = max(len(row["prompt"]) + len(row["target"]) for row in rows)
        input_ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
        attention_mask_BL = torch.zeros(len(rows), num_prefix + longest, dtype=torch.long)
        labels_BL = torch.full_like(attention_mask_BL, IGNORED)
        for number, row in enumerate(rows):
            text = torch.tensor(row["prompt"] + row["target"])
            input_ids_BT[number, : len(text)] = text
            attention_mask_BL[number, : num_prefix + len(text)] = 1
            first = num_prefix + len(row["prompt"])
            labels_BL[number, first : first + len(row["target"])] = text[len(row["prompt"]) :]
        patches_BPV = torch.stack([torch.from_numpy(row["patches"]) for row in rows]).float()
        return {
            "patches_BPV": patches_BPV,
            "input_ids_BT": input_ids_BT,
            "attention_mask_BL": attention_mask_BL,
            "labels": labels_BL,
        }


class MarkedTrainer(Trainer):
    """Keeps the loss of each micro batch, which the Trainer sums up by itself too."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.losses: list[Tensor] = []

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        self.losses.append(super().training_step(*arguments, **named))
        return self.losses[-1]


class MarkedSteps(TrainerCallback):
    def __init__(self) -> None:
        self.marks = Marks()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.marks.mark()


def train(
    job: str, warm_up_steps: int, sequences_per_micro_batch: int, sorted_by_length: bool, num_workers: int
) -> dict[str, Any]:
    """The whole training, from the first step."""
    torch.set_num_threads(2)
    model = built(job)
    sequences = sequences_of(job, sorted_by_length)
    per_step = len(sequences) // len(sequences.targets_by_step)
    assert per_step % sequences_per_micro_batch == 0, f"{per_step} sequences in {sequences_per_micro_batch}s"
    config = prepared_of(job).job.config
    steps = MarkedSteps()
    with tempfile.TemporaryDirectory() as folder:
        trainer = MarkedTrainer(
            Captioner(*model),
            TrainingArguments(
                output_dir=folder,
                max_steps=len(sequences.targets_by_step),
                per_device_train_batch_size=sequences_per_micro_batch,
                gradient_accumulation_steps=per_step // sequences_per_micro_batch,
                train_sampling_strategy="sequential",
                optim="adamw_torch_fused",
                learning_rate=config.learning_rate,
                lr_scheduler_type="constant",
                weight_decay=config.weight_decay,
                adam_beta1=config.betas[0],
                adam_beta2=config.betas[1],
                max_grad_norm=config.clip_norm,
                dataloader_num_workers=num_workers,
                dataloader_persistent_workers=num_workers > 0,
                dataloader_pin_memory=False,
                label_names=["labels"],
                remove_unused_columns=False,
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            data_collator=sequences.collate,
            train_dataset=sequences,
            callbacks=[steps],
        )
        trainer.train()
    num_micro = per_step // sequences_per_micro_batch
    losses = torch.stack(trainer.losses).unflatten(0, (-1, num_micro)).sum(dim=1).tolist()
    return {**steps.marks.steady(sequences.targets_by_step, warm_up_steps), "losses": losses}


@cache
def prepared_of(job: str) -> Prepared:
    return prepare(TrainJob.model_validate_json(Path(job).read_text()), 0, 1)


def built(job: str) -> tuple[nn.Module, Any]:
    """The mapper with the weights that Frostline starts from, and the language model as `transformers` loads it."""
    prepared = prepared_of(job)
    model: Any = prepared.build_model()
    lm = AutoModelForCausalLM.from_pretrained(prepared.job.language_model_dir, dtype=torch.float32)
    return model.mapper, lm.requires_grad_(False)


@cache
def sequences_of(job: str, sorted_by_length: bool) -> Sequences:
    return Sequences(prepared_of(job), sorted_by_length)


if __name__ == "__main__":
    serve({"train": train}, ("torch", "transformers", "accelerate", "numpy"))
