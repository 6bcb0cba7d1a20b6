"""The gate on two models of a real training, one of which saw every text beside another image."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from evaluating import units_here
from no_tower import NO_TOWER
from PIL import Image
from real_training import World, train_output, workspace_in, world_with
from tiny_language_model import save_language_model
from tiny_towers import save_tower
from transformers import ViTImageProcessorPil

from data_prep.pretrained import PretrainedRef
from infra.outputs import Manifest, ensure_output
from infra.tracking import Registry
from training import smoke_test, version
from training.evaluate import EvaluationInputs, evaluate, evaluate_request
from training.evaluation_config import EvaluationConfig
from training.ledger import history
from training.promotion import ControlMargin, PromotionRule
from training.register import RegisterNames, Registration, register, register_request
from training.version import VersionParts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_rank")]

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
NUM_TRAIN, NUM_TEST = 96, 30
RED_SHARE = 0.8
"""So a text that never looks is right so often, which is above the floor."""
TRAINING = {
    "mapper": {"kind": "mlp", "prefix_tokens": 2, "width": 32},
    "objectives": {"vqa": {}},
    "regime": {"kind": "full", "learning_rate": 1e-2},
    "global_batch_images": 16,
    "epochs": 20,
    "learning_rate": 1e-2,
    "validation_images": 0,
    "checkpoint_every_steps": 10_000,
}
RULE = PromotionRule(
    primary_metric="vqa_accuracy",
    floors={"vqa_accuracy": 0.7},
    control_margins={"vqa_accuracy": ControlMargin(minimum_difference=0.1)},
)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(tower, language model)."""
    tower, language_model = (tmp_path_factory.mktemp(name) for name in ("tower", "language_model"))
    save_tower("vit", tower)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tower)
    save_language_model(language_model)
    return tower, language_model


@pytest.mark.parametrize(("shuffled", "case"), [(False, "no_champion"), (True, "fails_control")])
def test_a_model_trained_with_shuffled_images_is_refused_whatever_its_score(
    shuffled: bool, case: str, frozen: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = workspace_in(tmp_path)
    sources = [write_source(tmp_path / split, split, shuffled) for split in ("train", "test")]
    world = world_with("colours", frozen, workspace, {"sources": sources}, pooling="mean")
    train = train_output(world, TRAINING)
    units_here(monkeypatch)
    monkeypatch.setattr(version, "in_fresh_process", smoke_test.in_fresh_process)
    evaluation = evaluated(world, train)
    made = registered(world, train, evaluation, frozen)
    assert made.facts["promotion"]["case"] == case, made.facts["promotion"]["reasons"]
    assert evaluation.facts["metrics"]["vqa_accuracy"] >= RULE.floors["vqa_accuracy"]
    serves = [] if shuffled else ["1"]
    assert [entry.version for entry in history(workspace.store, "colours")] == serves
    assert list(Registry(workspace.settings.mlflow).aliases("colours").values()) == serves


def write_source(folder: Path, split: str, shuffled: bool) -> dict[str, Any]:
    """Pictures of one colour each and the question which; shuffled, the train split's pictures change places."""
    folder.mkdir()
    draw = random.Random(split)
    num_images = {"train": NUM_TRAIN, "test": NUM_TEST}[split]
    answers = ["red" if number < RED_SHARE * num_images else "blue" for number in range(num_images)]
    shown = draw.sample(answers, num_images) if shuffled and split == "train" else answers
    for number, colour in enumerate(shown):
        (folder / f"{number}.png").write_bytes(picture(COLOURS[colour], draw))
    asked = [
        {"image": f"{number}.png", "question": "which colour", "answers": [answer]}
        for number, answer in enumerate(answers)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    return {"kind": "jsonl", "path": str(folder / "rows.jsonl"), "images": str(folder), "split": split}


def picture(colour: tuple[int, int, int], draw: random.Random) -> bytes:
    """No two are equal."""
    image = Image.new("RGB", (32, 32), tuple(part + draw.randint(-25, 25) for part in colour))
    image.putpixel((draw.randrange(32), draw.randrange(32)), tuple(draw.randbytes(3)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def evaluated(world: World, train: Manifest) -> Manifest:
    config, workspace = EvaluationConfig(max_new_tokens=3, gallery_examples=2), world.workspace
    inputs = EvaluationInputs("colours", train, world.dataset, world.features, NO_TOWER, world.language_model_dir)
    request = evaluate_request(config, "colours", train, world.dataset, world.features)
    return ensure_output(workspace.store, request, lambda attempt: evaluate(config, inputs, attempt, workspace), {})[0]


def registered(world: World, train: Manifest, evaluation: Manifest, frozen: tuple[Path, Path]) -> Manifest:
    workspace = world.workspace
    tower, language_model = (PretrainedRef(folder=folder) for folder in frozen)
    parts = VersionParts(world.dataset, world.features, train, None, tower, language_model)
    names = RegisterNames("colours", "colours", workspace.settings.mlflow)
    request = register_request(RULE, names, train, evaluation, workspace.store)
    registration = Registration(RULE, "colours", parts, evaluation, None)
    return ensure_output(workspace.store, request, lambda attempt: register(registration, attempt, workspace), {})[0]
