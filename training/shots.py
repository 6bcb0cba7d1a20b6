"""Which train examples stand before a question: few-shot evaluation (Tsimpoukelis et al. 2021, "Multimodal Few-Shot
Learning with Frozen Language Models")."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_prep.dataset import Example
from infra.digests import digest_json
from infra.errors import ConfigError, DataError
from training.asking import kinds_of, prompt_of
from training.config import TrainConfig
from training.evaluation_config import FewShotConfig


class Shot(NamedTuple):
    """An image, and the text that was trained behind it."""

    image_id: str
    prompt: str
    """As it was trained, with what stands around the example's own."""
    target: str
    """The example's first."""


Shots = tuple[Shot, ...]
"""Before one question, in their order."""


@dataclass(frozen=True)
class FewShot:
    """The shots of every question."""

    digests: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By the question's own image and task."""
    shots: Mapping[str, Shots] = field(default_factory=dict)
    """By digest."""


def few_shot_of(
    config: FewShotConfig, questions: Iterable[tuple[str, str]], shown: Sequence[Example], training: TrainConfig
) -> FewShot:
    """Of questions, by image and task, that are answered by text; from examples of the train split. Raises ConfigError
    where the model answers none by text, DataError where too few images have an example of the same task."""
    tasks = sorted(task for task, kind in kinds_of(training).items() if kind == "text")
    if not tasks:
        raise ConfigError(
            "evaluation.few_shot is set, and no task of this model is answered by text; expected one that is, since a "
            "head looks at one image. Leave few_shot out."
        )
    asked = sorted({(image_id, task) for image_id, task in questions if task in tasks})
    rings = {task: Ring(config, task, shown, training) for task in sorted({task for _, task in asked})}
    chosen = {(image_id, task): rings[task].before(image_id) for image_id, task in asked}
    digests = {key: digest_json(shots) for key, shots in chosen.items()}
    return FewShot(digests, {digests[key]: shots for key, shots in chosen.items()})


class Ring:
    """One task's train examples in the order of their seeded digests.

    Each shot of a question is the first example behind a seeded digest of the question's image and the shot's number,
    whose image is not shown yet: a new train example takes the place of one shot here and there, and one shot more
    keeps those before it."""

    def __init__(self, config: FewShotConfig, task: str, shown: Sequence[Example], training: TrainConfig) -> None:
        self.config, self.task, self.training = config, task, training
        usable = [one for one in shown if one.task == task and one.targets]
        placed = sorted((digest_json([config.seed, one.example_id]), one) for one in usable)
        self.places = [place for place, _ in placed]
        self.examples = [one for _, one in placed]
        self.image_ids = {one.image_id for one in usable}

    def before(self, image_id: str) -> Shots:
        """Of as many images, none of them this one. Raises DataError where there are not so many."""
        num_others = len(self.image_ids) - (image_id in self.image_ids)
        if num_others < self.config.examples:
            raise DataError(
                f"the train split has {num_others} images with a {self.task} example to show; expected at least the "
                f"{self.config.examples} of evaluation.few_shot.examples. Lower it, or add such a source with "
                "`split: train`."
            )
        found: list[Example] = []
        taken = {image_id}
        for number in range(self.config.examples):
            place = bisect(self.places, digest_json([self.config.seed, image_id, number]))
            while (one := self.examples[place % len(self.examples)]).image_id in taken:
                place += 1
            found.append(one)
            taken.add(one.image_id)
        return tuple(self._shot(one) for one in found)

    def _shot(self, example: Example) -> Shot:
        return Shot(example.image_id, prompt_of(self.training, self.task, example.prompt), example.targets[0])
