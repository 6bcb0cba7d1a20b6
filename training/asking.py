"""What an evaluation asks of a model: each test example with its own image, with another one and with none.

A reply follows from what is asked, whoever asks: five captions' rows of one image, or the example that has this image
in its control, need no second one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from data_prep.corruptions import Corruption
from data_prep.dataset import Example
from infra.digests import digest_json
from infra.errors import DataError
from training.config import TrainConfig
from training.objectives import objectives_of

Kind = Literal["text", "classify", "regress", "likelihood", "image_vector", "text_vector"]
"""A text; what a head makes of the image; how likely a target is; a vector to find the image or the text by."""
BLIND = "blind-"
"""Begins the id of what no image has: the mean prefix. Behind it stands the digest of the images it is the mean of."""
MAX_BLIND_IMAGES = 512
"""That the mean prefix is made of."""
NO_IMAGE = ""


class Asked(NamedTuple):
    """An image, and the words behind it."""

    image_id: str
    prompt: str
    """As it was trained, with what stands around the example's own."""
    kind: Kind = "text"
    target: str = ""
    """Of `likelihood`."""
    corruption: str = ""
    """How the picture is made worse before the tower sees it; empty where its stored features are taken."""
    shots: str = ""
    """Digest of the train examples that are shown before it, in their order; empty where none are."""


class Reply(NamedTuple):
    """What a model says. Empty is what the kind does not give."""

    text: str = ""
    log_likelihood: float = 0.0
    """Of the text or the target, its end token included; natural logarithm."""
    num_tokens: int = 0
    """Of the target, its end token included."""
    numbers: tuple[float, ...] = ()
    """Log-probabilities of the labels, numbers in the examples' units, or a vector of length 1."""

    @property
    def said(self) -> str:
        """For people: the text, or the numbers to four digits."""
        return self.text or told_numbers(self.numbers)

    @classmethod
    def of(cls, fields: Sequence[object]) -> Reply:
        """From JSON."""
        text, log_likelihood, num_tokens, numbers = fields
        return cls(text, log_likelihood, num_tokens, tuple(numbers))  # type: ignore[arg-type]


def told_numbers(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)


def references_of(example: Example) -> list[str]:
    """What is right, in words."""
    return list(example.targets) or [example.label or told_numbers(example.numbers)]


@dataclass(frozen=True)
class Question:
    """One test example, and all that is asked about it."""

    example_id: str
    task: str
    control_image_id: str
    own: Asked
    control: Asked
    """The same with another image."""
    blind: Asked
    """The same with the mean prefix."""
    target: Asked | None = None
    """How likely the example's first target is."""
    wrong: Asked | None = None
    """How likely another image's first target is."""
    texts: tuple[Asked, ...] = ()
    """Vectors of its texts, where the model finds images by them."""
    worse: tuple[Asked, ...] = ()
    """The same with its picture made worse, by each corruption in turn."""

    def asked(self) -> Iterator[Asked]:
        shown = (self.own, self.control, self.blind)
        yield from shown
        yield from (one for one in (self.target, self.wrong) if one is not None)
        yield from self.worse
        if self.texts:
            yield from (image_vector(one) for one in shown)
            yield from self.texts


@dataclass(frozen=True)
class Worse:
    """Which pictures are made worse, and how."""

    image_ids: frozenset[str]
    corruptions: tuple[Corruption, ...]

    def of(self, own: Asked) -> tuple[Asked, ...]:
        chosen = self.corruptions if own.image_id in self.image_ids else ()
        return tuple(own._replace(corruption=each.name) for each in chosen)


def image_vector(shown: Asked) -> Asked:
    """The vector of the image that is shown."""
    return Asked(shown.image_id, "", "image_vector")


def swapped(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Another image for each image: one round through all, in the order of seeded digests, so that one image more
    changes the image of one other only. Raises DataError below two images."""
    shuffled = sorted(set(image_ids), key=lambda image_id: digest_json([seed, image_id]))
    if len(shuffled) < 2:
        raise DataError(
            f"the test split has {len(shuffled)} images; expected at least 2, since the control swaps images between "
            "examples. Ingest more data or raise ingest.split_fractions.test."
        )
    return dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))


def blind_images(image_ids: Collection[str]) -> list[str]:
    """Whose prefixes the blind model's is the mean of."""
    return sorted(set(image_ids))[:MAX_BLIND_IMAGES]


def blind_id(image_ids: Collection[str]) -> str:
    return BLIND + digest_json(blind_images(image_ids))


def kinds_of(config: TrainConfig) -> dict[str, Kind]:
    """By task: what a model of this training is asked for."""
    if config.mapper is None:
        return {}
    by_head: dict[str, Kind] = {"classify": "classify", "regress": "regress"}
    return {
        objective.task: by_head[objective.name] if objective.has_head else "text"
        for objective in objectives_of(config.objectives)
        if objective.sees_image
    }


def prompt_of(config: TrainConfig, task: str, prompt: str) -> str:
    """An example's prompt as it was trained."""
    (objective,) = [one for one in objectives_of(config.objectives) if one.task == task and one.sees_image]
    return objective.prompt(prompt)


def questions_of(
    examples: Sequence[Example],
    config: TrainConfig,
    control: Mapping[str, str],
    worse: Worse | None = None,
    shots: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> list[Question]:
    """Of the examples whose task was trained. `shots` are digests by image and task, and stay where an example's image
    is swapped, left out or made worse."""
    kinds = kinds_of(config)
    blind = blind_id(control)
    captions = {e.image_id: e.targets[0] for e in reversed(examples) if e.task == "caption" and e.targets}
    finds = config.objectives.contrast is not None
    questions = []
    for example in examples:
        if example.task not in kinds:
            continue
        kind, other = kinds[example.task], control[example.image_id]
        shown = shots.get((example.image_id, example.task), "")
        own = Asked(example.image_id, prompt_of(config, example.task, example.prompt), kind, shots=shown)
        target = own._replace(kind="likelihood", target=example.targets[0]) if _has_text(kind, example) else None
        found_by = example.targets if finds and example.task == "caption" else ()
        found = Question(
            example.example_id, example.task, other, own,
            control=own._replace(image_id=other),
            blind=own._replace(image_id=blind),
            target=target,
            wrong=_wrong(example, target, captions.get(other)),
            texts=tuple(Asked(NO_IMAGE, text, "text_vector") for text in found_by),
            worse=worse.of(own) if worse else (),
        )  # fmt: skip
        questions.append(found)
    return questions


def _has_text(kind: Kind, example: Example) -> bool:
    return kind == "text" and bool(example.targets)


def _wrong(example: Example, target: Asked | None, other: str | None) -> Asked | None:
    """Another image's caption, unless it is one of the example's own."""
    if target is None or example.task != "caption" or other is None or other in example.targets:
        return None
    return target._replace(target=other)


def units_of(asked: Collection[Asked], size: int) -> dict[str, list[Asked]]:
    """By name, at most so many of what is asked, each once. Sorted by length within what shares a batch: it pads
    little."""
    ordered = sorted(set(asked), key=lambda one: (one.kind, one.corruption, len(one.prompt) + len(one.target), one))
    units = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return {f"asked-{digest_json(unit)}": unit for unit in units}
