"""The text that the base language model learns from: scenes described, captioned and asked about.

Scenes are drawn here, not read: no picture, and so no held-out handwriting, is involved."""

import random
from dataclasses import dataclass

from data_prep.sources.scene_text import (
    COLUMN_WORDS,
    ROW_WORDS,
    Scene,
    captions,
    draw_scene,
    questions,
)


@dataclass(frozen=True)
class SceneText:
    """`description` has one phrase per item; `branches` are (prompt, target) pairs about the scene."""

    description: tuple[str, ...]
    branches: tuple[tuple[str, str], ...]


def vqa_prompt(question: str) -> str:
    return f"question: {question} answer:"


CAPTION_PROMPT = "caption:"


def scene_text(seed: int, number: int) -> SceneText:
    """Scene text `number` of the corpus with this seed."""
    rng = random.Random(f"text/{seed}/{number}")
    scene = draw_scene(rng)
    asked = questions(scene, rng)
    branches = [(vqa_prompt(question.prompt), f" {question.answer}") for question in asked]
    branches.append((CAPTION_PROMPT, f" {rng.choice(captions(scene))}"))
    return SceneText(_describe(scene, rng), tuple(branches))


def _describe(scene: Scene, rng: random.Random) -> tuple[str, ...]:
    phrases = []
    for item in rng.sample(scene.items, len(scene.items)):
        words = [item.colour, str(item.digit), COLUMN_WORDS[item.column], ROW_WORDS[item.row]]
        phrases.append(" " + " ".join(rng.sample(words, len(words))))
    return tuple(phrases)


def tokenizer_text(seed: int, num_scenes: int) -> list[str]:
    """The first scenes of the corpus, one sentence a line, for the tokenizer."""
    texts = [scene_text(seed, number) for number in range(num_scenes)]
    return [
        line for text in texts for line in (*text.description, *(prompt + target for prompt, target in text.branches))
    ]
