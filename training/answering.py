"""Predictions for test examples, each with its own image and with a swapped one; generated unit by unit, in Ray actors.

A text follows from an image and a prompt, whoever asks: five captions' rows of one image, or the example that has this
image in its control, need no second text.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset import Example
from infra.digests import digest_json
from infra.errors import DataError
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.store import open_store
from training.config import TrainConfig
from training.generation import Asked, GenerationConfig, generate


@dataclass(frozen=True)
class Question:
    """One prompt to answer twice."""

    example_id: str
    prompt: str
    image_id: str
    control_image_id: str

    @property
    def asked(self) -> tuple[Asked, Asked]:
        """With its own image, and with the other one."""
        return Asked(self.image_id, self.prompt), Asked(self.control_image_id, self.prompt)


@dataclass(frozen=True)
class Answer:
    prediction: str
    control_prediction: str


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


def questions_of(examples: Sequence[Example], config: TrainConfig, control: Mapping[str, str]) -> list[Question]:
    """Of the examples whose task was trained."""
    prompts = config.objectives.prompts
    return [
        Question(e.example_id, prompt_of(config, e.task, e.prompt), e.image_id, control[e.image_id])
        for e in examples
        if e.task in prompts
    ]


def prompt_of(config: TrainConfig, task: str, prompt: str) -> str:
    """An example's prompt as it was trained."""
    return config.objectives.prompts[task].replace("{prompt}", prompt)


def units_of(asked: Collection[Asked], size: int) -> dict[str, list[Asked]]:
    """By name, at most so many of what is asked, each once. Sorted by length, so that a batch pads little."""
    ordered = sorted(set(asked), key=lambda one: (len(one.prompt), one.prompt, one.image_id))
    units = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return {f"asked-{digest_json(unit)}": unit for unit in units}


class Answerer:
    """Lives in a Ray actor: what is asked in, texts out. The model is outside ZeRO."""

    def __init__(
        self,
        store_uri: str,
        cache_dir: str,
        train: dict[str, Any],
        features: dict[str, Any],
        language_model_folder: str,
        options: Mapping[str, Any],
    ) -> None:
        import torch

        from data_prep.features import FeatureStore
        from training.trained import load_trained

        torch.set_num_threads(options["threads"])
        cache = PartCache(open_store(store_uri), Path(cache_dir))
        self.features = FeatureStore(Manifest.model_validate(features), cache)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.language_model = load_trained(
            Manifest.model_validate(train), self.features, Path(language_model_folder), cache, self.device
        )
        self.batch_size = options["batch_size"]
        self.generation = GenerationConfig.model_validate(options["generation"])

    def run(self, unit: Sequence[Asked]) -> list[str]:
        """One text each."""
        texts: list[str] = []
        for start in range(0, len(unit), self.batch_size):
            batch = unit[start : start + self.batch_size]
            texts += self._generate(batch)
        return texts

    def _generate(self, batch: Sequence[Asked]) -> list[str]:
        import torch

        patches_BPV = torch.from_numpy(self.features.gather([image_id for image_id, _ in batch])).to(self.device)
        return generate(self.model, self.language_model, patches_BPV, batch, self.generation)
