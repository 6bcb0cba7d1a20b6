"""Locked-image tuning on real photos: MobileNetV2's features, stories260K as the text tower, held-out images.

cifar10's labels as prompts, and UCM's captions. Bounds are far below what is found, which is printed with chance
beside it (`pytest -s`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from real_training import World, train_output

from data_prep.dataset import Example
from training.lit.model import LitModel
from training.lit.text_tower import TextTower
from training.lit.trained import load_lit
from training.lit.zero_shot import class_scores, class_vectors, recall_at, retrieval_ranks, text_vectors

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.usefixtures("one_rank")]
UCM_WORDS = {
    "baseballdiamond": "baseball diamond",
    "denseresidential": "dense residential area",
    "golfcourse": "golf course",
    "mediumresidential": "medium residential area",
    "mobilehomepark": "mobile home park",
    "parkinglot": "parking lot",
    "sparseresidential": "sparse residential area",
    "storagetanks": "storage tanks",
    "tenniscourt": "tennis court",
}
"""Labels that are not words as they stand."""
UCM_TEMPLATES = ("there is a {label} .", "this is a {label} .", "{label}")
LIT = {
    "regime": {"kind": "lit", "learning_rate": 1e-3},
    "objectives": {"contrast": {"width": 64, "loss": "infonce"}},
    "learning_rate": 3e-3,
    "checkpoint_every_steps": 1000,
    "validate_every_steps": 1000,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "cifar10": {**LIT, "global_batch_images": 128, "epochs": 3},
    "ucm_captions": {**LIT, "global_batch_images": 64, "epochs": 6, "max_targets_per_image": 2},
}


class Tuned(NamedTuple):
    """A trained pair of towers, and the images it has not seen."""

    model: LitModel
    tower: TextTower
    examples: list[Example]
    image_ids: list[str]
    image_IE: torch.Tensor


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Path:
    return shared_data / "weights" / "stories260K_hf"


@pytest.fixture(scope="module")
def random_encoder(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Path:
    """A BERT of two layers that was never trained, with the tokenizer of stories260K."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    AutoTokenizer.from_pretrained(stories).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def tuned(world: World, text_tower: Path) -> Tuned:
    """Trained, exported and loaded again."""
    world = replace(world, language_model_dir=text_tower)
    output = train_output(world, TRAININGS[world.name])
    model, tower = load_lit(output, world.stored, text_tower, world.workspace.cache, "cpu")
    examples = world.examples("test")
    image_ids = sorted({example.image_id for example in examples})
    with torch.no_grad():
        image_IE = model.image_vectors(torch.from_numpy(world.stored.gather(image_ids)))
    return Tuned(model, tower, examples, image_ids, image_IE)


def accuracy(found: Tuned, label_of: Mapping[str, str], words: Mapping[str, str], templates: Sequence[str]) -> float:
    """Of naming held-out images by prompts of their classes."""
    labels = sorted(set(label_of.values()))
    told = [words.get(label, label) for label in labels]
    scores_BC = class_scores(found.image_IE, class_vectors(found.model, found.tower, told, templates, 64))
    named = [labels[number] for number in scores_BC.argmax(dim=1).tolist()]
    return sum(name == label_of[image_id] for name, image_id in zip(named, found.image_ids, strict=True)) / len(named)


def recalls(found: Tuned) -> dict[str, tuple[float, float]]:
    """R@1, 5 and 10 both ways among the held-out images and all their different captions, each with chance beside."""
    owners: dict[str, set[int]] = {}
    for example in found.examples:
        for text in example.targets:
            owners.setdefault(text, set()).add(found.image_ids.index(example.image_id))
    text_XE = text_vectors(found.model, found.tower, list(owners), 64)
    images_of = dict(enumerate(owners.values()))
    texts_of = {
        image: {text for text, images in images_of.items() if image in images} for image in range(len(found.image_ids))
    }
    figures = {}
    for name, query_QE, candidate_NE, positives in (
        ("text → image", text_XE, found.image_IE, images_of),
        ("image → text", found.image_IE, text_XE, texts_of),
    ):
        ranks = retrieval_ranks(query_QE, candidate_NE, positives)
        for k in (1, 5, 10):
            figures[f"{name} R@{k}"] = (recall_at(ranks, k), chance(positives, len(candidate_NE), k))
    return figures


def chance(positives: Mapping[int, set[int]], num_candidates: int, k: int) -> float:
    """R@k of a random order."""
    missed = [comb(num_candidates - len(found), k) / comb(num_candidates, k) for found in positives.values()]
    return 1 - sum(missed) / len(missed)


def test_held_out_cifar10_images_are_named_by_prompts(cifar10: World, stories: Path, random_encoder: Path) -> None:
    """Trained on the same prompts with other images. Ten classes: chance is 0.10."""
    figures = {}
    for folder in (stories, random_encoder):
        found = tuned(cifar10, folder)
        label_of = {example.image_id: example.targets[0] for example in found.examples}
        figures[folder.name] = accuracy(found, label_of, {}, found.model.regime.templates)
    print(f"\ncifar10 by prompts, chance 0.10: {figures}")
    assert min(figures.values()) > 0.5


def test_held_out_ucm_images_and_captions_find_each_other(
    ucm_captions: World, stories: Path, random_encoder: Path
) -> None:
    """Trained on captions alone; then also asked for the 21 classes, whose names were no texts of the training."""
    for folder in (stories, random_encoder):
        found = tuned(ucm_captions, folder)
        figures = recalls(found)
        label_of = {example.image_id: example.attributes["label"] for example in found.examples}
        zero_shot = accuracy(found, label_of, UCM_WORDS, UCM_TEMPLATES)
        told = ", ".join(
            f"{name} {recall:.2f} (chance {by_chance:.2f})" for name, (recall, by_chance) in figures.items()
        )
        print(f"\nucm with {folder.name}: {told}; 21 classes by prompts {zero_shot:.2f} (chance 0.05)")
        assert zero_shot > 0.15
        assert figures["text → image R@1"][0] > 0.2 and figures["image → text R@1"][0] > 0.2
        assert figures["text → image R@10"][0] > 0.6 and figures["image → text R@10"][0] > 0.5
