"""What is trained in each comparison, and how much of it: the whole benchmark, or a smoke test of it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

GPT2_SIZED = {"n_layer": 12, "n_embd": 768, "n_head": 12}
SMALL = {"n_layer": 4, "n_embd": 256, "n_head": 4}
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2}
SMALL_TOKENS = 1024
"""Of a tokenizer of our own, trained on the captions. The other side computes logits at every position, so a large
vocabulary would flatter ours."""


@dataclass(frozen=True)
class TrainerSettings:
    """Of the `transformers` Trainer: those of its fastest trial (`--only trainer-settings`)."""

    sequences_per_micro_batch: int
    sorted_by_length: bool = True
    """Within each global batch, so that little is padded; the global batches stay the same."""
    num_workers: int = 0


@dataclass(frozen=True)
class Case:
    """One training: language model, mapper, texts, batch."""

    name: str
    language_model: dict[str, int]
    vocabulary: Literal["gpt2", "own"]
    texts: Literal["captions", "answers", "photos"]
    targets_per_image: int
    mapper: dict[str, Any]
    global_batch_images: int
    micro_batch_tokens: int
    trainer: TrainerSettings
    num_steps: int
    num_patches: int = 49
    vision_width: int = 512

    @property
    def num_images(self) -> int:
        return self.global_batch_images * self.num_steps


@dataclass(frozen=True)
class Plan:
    root: Path
    """Language models and stores, made once."""
    shared_data: Path
    rounds: int
    warm_up_steps: int
    few_captions: Case
    long_prefix: Case
    answers: Case
    loop: Case
    """For what the loop costs beside its forwards and backwards: short steps, where that shows most."""
    photos: Case
    """For features against encoding: real images and the features of MobileNetV2."""
    checkpoint_every_steps: int

    @property
    def cores(self) -> list[int]:
        """Two, however many there are."""
        return sorted(os.sched_getaffinity(0))[:2]

    @property
    def mobilenet(self) -> Path:
        return self.shared_data / "weights" / "mobilenet_v2_hf_fp16"


def _mlp(prefix_tokens: int) -> dict[str, Any]:
    return {"kind": "mlp", "prefix_tokens": prefix_tokens, "width": 512}


def _transformer(prefix_tokens: int, width: int) -> dict[str, Any]:
    return {"kind": "transformer", "prefix_tokens": prefix_tokens, "width": width, "num_layers": 2, "num_heads": 4}


def whole(root: Path, shared_data: Path) -> Plan:
    few_captions = Case(
        name="GPT-2-sized, K=10, 5 captions",
        language_model=GPT2_SIZED,
        vocabulary="gpt2",
        texts="captions",
        targets_per_image=5,
        mapper=_mlp(10),
        global_batch_images=8,
        micro_batch_tokens=400,
        trainer=TrainerSettings(8),
        num_steps=5,
    )
    long_prefix = replace(
        few_captions,
        name="GPT-2-sized, K=64, 5 captions",
        mapper=_transformer(64, 256),
        micro_batch_tokens=560,
        trainer=TrainerSettings(4),
        global_batch_images=4,
    )
    answers = replace(
        few_captions,
        name="4 layers of 256, K=196, 10 answers",
        language_model=SMALL,
        vocabulary="own",
        texts="answers",
        targets_per_image=10,
        mapper=_transformer(196, 128),
        micro_batch_tokens=1024,
        trainer=TrainerSettings(12),
        global_batch_images=12,
        num_steps=8,
    )
    loop = replace(
        few_captions,
        name="4 layers of 256, K=10, 5 captions",
        language_model=SMALL,
        vocabulary="own",
        micro_batch_tokens=1024,
        global_batch_images=16,
        num_steps=40,
    )
    return Plan(
        root=root,
        shared_data=shared_data,
        rounds=5,
        warm_up_steps=1,
        few_captions=few_captions,
        long_prefix=long_prefix,
        answers=answers,
        loop=loop,
        photos=replace(loop, texts="photos", targets_per_image=4, num_steps=16, vision_width=1280),
        checkpoint_every_steps=200,
    )


def quick(root: Path, shared_data: Path) -> Plan:
    def tiny(case: Case, num_steps: int = 2) -> Case:
        sizes = {"global_batch_images": 4, "micro_batch_tokens": 512, "num_steps": num_steps, "vocabulary": "own"}
        trainer = TrainerSettings(case.targets_per_image)
        return replace(case, language_model=TINY, trainer=trainer, **sizes)  # type: ignore[arg-type]

    plan = whole(root, shared_data)
    return replace(
        plan,
        rounds=1,
        few_captions=tiny(plan.few_captions),
        long_prefix=tiny(plan.long_prefix),
        answers=tiny(plan.answers),
        loop=tiny(plan.loop, 4),
        photos=tiny(plan.photos),
        checkpoint_every_steps=4,
    )
