"""What a regime makes of a job: images with their texts, batches of them, and a model that reads these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from data_prep.dataset import Example
from training.data import Batcher
from training.objectives.answer_space import AnswerSpace
from training.packing import PackedImage

if TYPE_CHECKING:
    from torch import nn


T = TypeVar("T")


@dataclass(frozen=True)
class Examples:
    """Of the splits that a training reads."""

    train: Sequence[Example]
    val: Sequence[Example]


@dataclass(frozen=True)
class Material:
    """Everything that differs between a prefix before a language model and two towers side by side."""

    train: tuple[PackedImage, ...]
    val: tuple[PackedImage, ...]
    batcher: Batcher
    build_model: Callable[[], nn.Module]
    """Fresh, with everything of the regime marked as trained."""
    space: AnswerSpace = field(default_factory=AnswerSpace)
    messages: tuple[str, ...] = ()
    """What an operator has to know of how this training differs from what the configuration could expect."""


def given_once(loaded: T, load: Callable[[], T]) -> Callable[[], T]:
    """Gives what is loaded, and then what `load` loads: training changes a model in place, so none is given twice."""
    ready = [loaded]
    return lambda: ready.pop() if ready else load()
