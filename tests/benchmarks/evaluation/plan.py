"""What is answered in each comparison, and how much of it: the whole benchmark, or a smoke test of it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

GPT2_SIZED = {"n_layer": 12, "n_embd": 768, "n_head": 12}
SMALL = {"n_layer": 4, "n_embd": 256, "n_head": 4}
TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2}


@dataclass(frozen=True)
class Case:
    """One model and what it is asked."""

    name: str
    language_model: dict[str, int]
    num_texts: int
    ragged: bool
    """Questions of 1 to 16 words; otherwise one prompt for all, as captions have it."""
    end_token_scale: float
    """Of the end token's row in the output matrix. At 2 texts end after some ten tokens, as a trained model's do; at 0
    hardly one ends before it is cut."""
    max_new_tokens: int = 24
    batch_size: int = 64
    prefix_tokens: int = 10
    num_patches: int = 49
    vision_width: int = 512
    num_extra_words: int = 1000


@dataclass(frozen=True)
class Plan:
    root: Path
    """Where models and stores are made, once."""
    rounds: int
    captions: Case
    questions: Case
    cut: Case
    """Captions of which hardly one ends: nothing is gained where rows that have ended leave the batch."""
    cached: Case
    """A model so small that its first evaluation takes seconds: the second does not run it."""
    num_cached_images: int
    """Each with a caption and a question."""

    @property
    def cores(self) -> list[int]:
        """Two, however many there are."""
        return sorted(os.sched_getaffinity(0))[:2]


def whole(root: Path) -> Plan:
    captions = Case("GPT-2-sized, captions", GPT2_SIZED, 128, ragged=False, end_token_scale=2.0)
    small = replace(captions, language_model=SMALL, num_texts=1024)
    return Plan(
        root=root,
        rounds=5,
        captions=captions,
        questions=replace(small, name="4 layers of 256, questions", ragged=True),
        cut=replace(small, name="4 layers of 256, captions that are cut", end_token_scale=0.0),
        cached=replace(
            captions, name="one layer of 16", language_model=TINY, num_patches=1, vision_width=16, batch_size=256
        ),
        num_cached_images=2500,
    )


def quick(root: Path) -> Plan:
    def tiny(case: Case) -> Case:
        sizes = {"num_texts": 20, "batch_size": 8, "num_extra_words": 20, "max_new_tokens": 6}
        return replace(case, language_model=TINY, **sizes)  # type: ignore[arg-type]

    plan = whole(root)
    return replace(
        plan,
        rounds=1,
        captions=tiny(plan.captions),
        questions=tiny(plan.questions),
        cut=tiny(plan.cut),
        cached=replace(plan.cached, max_new_tokens=6),
        num_cached_images=12,
    )
