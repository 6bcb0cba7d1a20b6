"""Predictions for test examples, shard by shard, in a Ray actor: each with its own image and with a swapped one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset import Example
from infra.errors import DataError
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.store import open_store
from training.config import TrainConfig


@dataclass(frozen=True)
class Question:
    """One prompt to answer twice."""

    example_id: str
    prompt: str
    image_id: str
    control_image_id: str


@dataclass(frozen=True)
class Answer:
    prediction: str
    control_prediction: str


def swapped(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Another image for each image: one round through a seeded shuffle. Raises DataError below two images."""
    shuffled = sorted(set(image_ids))
    if len(shuffled) < 2:
        raise DataError(
            f"the test split has {len(shuffled)} images; expected at least 2, since the control swaps images between "
            "examples. Ingest more data or raise ingest.split_fractions.test."
        )
    random.Random(seed).shuffle(shuffled)
    return dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))


def questions_of(examples: Sequence[Example], config: TrainConfig, control: Mapping[str, str]) -> list[Question]:
    """Prompts as they were trained. Sorted by length, so that a batch pads little."""
    prompts = config.objectives.prompts
    questions = [
        Question(e.example_id, prompts[e.task].replace("{prompt}", e.prompt), e.image_id, control[e.image_id])
        for e in examples
        if e.task in prompts
    ]
    return sorted(questions, key=lambda question: (len(question.prompt), question.prompt, question.example_id))


class Answerer:
    """Lives in a Ray actor: questions in, answers out. The model is outside ZeRO."""

    def __init__(
        self,
        store_uri: str,
        cache_dir: str,
        train: dict[str, Any],
        features: dict[str, Any],
        language_model_folder: str,
        options: Mapping[str, int],
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
        self.max_new_tokens = options["max_new_tokens"]

    def run(self, unit: Sequence[Question]) -> dict[str, Answer]:
        """Answers by example_id."""
        answers: dict[str, Answer] = {}
        for start in range(0, len(unit), self.batch_size):
            batch = unit[start : start + self.batch_size]
            predictions = self._generate(batch, [question.image_id for question in batch])
            controls = self._generate(batch, [question.control_image_id for question in batch])
            for question, prediction, control in zip(batch, predictions, controls, strict=True):
                answers[question.example_id] = Answer(prediction, control)
        return answers

    def _generate(self, batch: Sequence[Question], image_ids: Sequence[str]) -> list[str]:
        import torch

        from training.generation import generate

        patches_BPV = torch.from_numpy(self.features.gather(image_ids)).to(self.device)
        prompts = [question.prompt for question in batch]
        return generate(self.model, self.language_model, patches_BPV, prompts, self.max_new_tokens)
