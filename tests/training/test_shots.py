"""Which train examples an evaluation shows before a question, and what of it is asked, kept and told."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluating import CONFIG, assert_same_rows, evaluated, file_of, request_of, rows_of, units_here
from pydantic import ValidationError
from stored_parts import example_row, store_shard

from data_prep.dataset import Example
from data_prep.features import FeatureStore
from data_prep.schemas import examples_schema, excluded_schema
from infra.digests import digest_json
from infra.errors import ConfigError, DataError
from infra.outputs import Manifest
from infra.workspace import Workspace
from training import evaluate as step
from training.asking import BLIND, Asked, Reply, blind_id
from training.blind import blinded
from training.config import TrainConfig
from training.evaluation_config import EvaluationConfig, FewShotConfig, yardstick
from training.few_shot import EncodedShots, shown_before
from training.generation import generate_scored
from training.shots import Shots, few_shot_of
from training.trained import load_trained

TWO = CONFIG.model_copy(update={"few_shot": FewShotConfig(examples=2)})


def training(**objectives: Any) -> TrainConfig:
    needed = {"mapper": {"kind": "mlp", "prefix_tokens": 2, "width": 8}, "global_batch_images": 4}
    return TrainConfig.model_validate({**needed, "epochs": 1, "learning_rate": 0.1, "objectives": objectives})


BOTH = training(caption={}, vqa={"prompt": "Q: {prompt} A:"})
IMAGE_IDS = [digest_json(number) for number in range(200)]
QUESTIONS = [(digest_json(["test", number]), "vqa") for number in range(100)]


def example(number: int, image_id: str, task: str = "vqa", targets: tuple[str, ...] = ("x", "y")) -> Example:
    return Example(digest_json(["example", number]), image_id, task, f"what {number}", targets, "train", "tiny")


TRAIN = [example(number, IMAGE_IDS[number // 2]) for number in range(400)]


def chosen(
    num_shots: int, shown: Sequence[Example] = TRAIN, questions: Sequence[tuple[str, str]] = QUESTIONS, seed: int = 0
) -> dict[tuple[str, str], Shots]:
    found = few_shot_of(FewShotConfig(examples=num_shots, seed=seed), questions, shown, BOTH)
    return {key: found.shots[digest] for key, digest in found.digests.items()}


def test_shots_are_other_images_of_the_same_task_in_the_words_of_the_training() -> None:
    own = [(image_id, "vqa") for image_id in IMAGE_IDS[:50]]
    captions = [example(1000 + number, image_id, "caption") for number, image_id in enumerate(IMAGE_IDS)]
    answerless = [example(2000 + number, image_id, targets=()) for number, image_id in enumerate(IMAGE_IDS)]
    questions_of_image = {(one.image_id, f"Q: {one.prompt} A:") for one in TRAIN}
    found = chosen(4, [*TRAIN, *captions, *answerless], own)
    for (image_id, _), shots in found.items():
        assert len({image_id, *(shot.image_id for shot in shots)}) == 5
        assert all((shot.image_id, shot.prompt) in questions_of_image and shot.target == "x" for shot in shots)
    assert len({shot.image_id for shots in found.values() for shot in shots}) > 100


def test_shots_follow_from_seed_and_image_and_stay_where_more_are_shown() -> None:
    found = chosen(4)
    assert chosen(4, TRAIN[::-1], QUESTIONS[::-1]) == found
    assert {key: shots[:2] for key, shots in found.items()} == chosen(2)
    assert chosen(4, questions=QUESTIONS[:1]) == {QUESTIONS[0]: found[QUESTIONS[0]]}
    assert sum(one != other for one, other in zip(found.values(), chosen(4, seed=1).values(), strict=True)) == 100


def test_a_new_train_example_takes_the_place_of_few_shots() -> None:
    """Of 400 shots about one, and none where it is of another task."""
    before, new = chosen(4), digest_json("new")
    changed = [sum(before[key] != shots for key, shots in chosen(4, [*TRAIN, example(number, new)]).items())
               for number in range(1000, 1020)]  # fmt: skip
    assert 5 < sum(changed) < 60
    assert chosen(4, [*TRAIN, example(1000, new, "caption")]) == before


def test_fewer_images_than_shots_are_told() -> None:
    with pytest.raises(DataError, match=r"has 2 images with a vqa example to show; expected at least the 3 of eval"):
        chosen(3, TRAIN[:6], [(IMAGE_IDS[0], "vqa")])


def test_a_model_of_heads_alone_is_shown_nothing() -> None:
    with pytest.raises(ConfigError, match="no task of this model is answered by text"):
        few_shot_of(FewShotConfig(examples=1), [(IMAGE_IDS[0], "regress")], TRAIN, training(regress={}))


@pytest.mark.parametrize("told", [{"examples": 0}, {"examples": 65}, {}, {"examples": 1, "kind": "first"}])
def test_a_setting_out_of_bounds_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EvaluationConfig.model_validate({"few_shot": told})


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[list[Asked]]:
    return units_here(monkeypatch)


def grown(world: Any, workspace: Workspace, folder: Path, **tables: pa.Table) -> Any:
    """The same world with a shard more."""
    parts = [*world.dataset.parts, *store_shard(workspace.store, folder, **tables)]
    identity = {**world.dataset.identity, "dataset_digest": digest_json([part.digest for part in parts])}
    draft = world.dataset.draft.model_copy(update={"parts": parts, "identity": identity})
    made = world.dataset.model_dump(exclude={"digest"}) | {"draft": draft.model_dump()}
    return replace(world, dataset=Manifest.model_validate(made))


@pytest.mark.usefixtures("answered")
def test_every_reply_is_that_of_its_image_behind_the_examples_own_shots(
    trained_world: Any, workspace: Workspace
) -> None:
    """Swapped, and left out, is the image that is asked about alone. Against one row at a time."""
    manifest, _ = evaluated(trained_world, workspace, TWO)
    features = FeatureStore(trained_world.features, workspace.cache)
    folder = trained_world.language_model_folder
    model, language = load_trained(trained_world.train, features, folder, workspace.cache, "cpu")
    image_ids = sorted({one.image_id for one in trained_world.test_examples})
    blind = blinded(model, [torch.from_numpy(features.gather(image_ids))])
    train = step.read_examples(trained_world.dataset, workspace.cache, ["train"])
    questions = [(one.image_id, one.task) for one in trained_world.test_examples]
    found = few_shot_of(FewShotConfig(examples=2), questions, train, trained_world.config)

    def replied(one: Mapping[str, Any]) -> Reply:
        shots = found.shots[one["shots"]]
        shown = shown_before(model, language, [EncodedShots(shots, features.gather([each.image_id for each in shots]))])
        looks = not one["image_id"].startswith(BLIND)
        patches = torch.from_numpy(features.gather([one["image_id"] if looks else image_ids[0]]))
        who = model if looks else blind
        return generate_scored(who, language, patches, [Asked("", one["prompt"])], TWO.generation, shown)[0]

    table = pq.read_table(file_of(manifest, "replies.parquet", workspace)).to_pylist()
    texts = {(one["image_id"], one["prompt"], one["shots"]): one for one in table if one["kind"] == "text"}
    for one in texts.values():
        reply = replied(one)
        assert (one["text"], one["log_likelihood"]) == (reply.text, pytest.approx(reply.log_likelihood, rel=1e-4))
    prompts = {"caption": "caption:", "vqa": "question: which digit answer:"}
    rows, without = (rows_of(evaluated(trained_world, workspace, config)[0], workspace) for config in (TWO, CONFIG))
    for row in rows:
        of_row = prompts[row["task"]], found.digests[row["image_id"], row["task"]]
        assert row["prediction"] == texts[row["image_id"], *of_row]["text"]
        assert row["control_prediction"] == texts[row["control_image_id"], *of_row]["text"]
        assert row["blind_prediction"] == texts[blind_id(image_ids), *of_row]["text"]
    assert sum(one["prediction"] != other["prediction"] for one, other in zip(rows, without, strict=True)) > 10
    blind_likelihoods = {one["log_likelihood"] for one in texts.values() if one["image_id"].startswith(BLIND)}
    assert len(blind_likelihoods) > 2, "without an image, texts still follow from the shots"


def test_replies_are_known_again_by_their_shots_alone(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace, tmp_path: Path
) -> None:
    first, _ = evaluated(trained_world, workspace, TWO)
    known = {"asked": 0, "reused": sum(map(len, answered))}
    assert first.facts["num_replies"]["reused"] == 0
    assert all(one.shots for unit in answered for one in unit)
    plain, _ = evaluated(trained_world, workspace)
    assert plain.facts["num_replies"]["reused"] == 0
    again, _ = evaluated(trained_world, workspace, TWO.model_copy(update={"gallery_examples": 1}))
    assert again.facts["num_replies"] == known
    assert_same_rows(rows_of(again, workspace), rows_of(first, workspace))
    # A train row more of a task that shows nothing: another output, made of the same replies.
    row = example_row(IMAGE_IDS[0], "count", "?", ["2"])
    later = grown(trained_world, workspace, tmp_path, examples=pa.Table.from_pylist([row], examples_schema()))
    second, reused = evaluated(later, workspace, TWO)
    assert not reused and second.facts["num_replies"] == known
    assert yardstick(second) != yardstick(first), "other shots could have been shown"
    assert evaluated(later, workspace) == (plain, True)


@pytest.mark.usefixtures("answered")
def test_texts_behind_shots_do_not_depend_on_rows_per_batch(trained_world: Any, workspace: Workspace) -> None:
    found = []
    for rows_per_batch in (1, 3, 64):
        actors = workspace.profile.evaluate.model_copy(update={"rows_per_batch": rows_per_batch})
        profile = workspace.profile.model_copy(update={"evaluate": actors})
        manifest, _ = evaluated(trained_world, replace(workspace, profile=profile), TWO)
        found.append(rows_of(manifest, workspace))
        workspace.store.delete(request_of(trained_world, TWO).manifest_key)
    assert_same_rows(found[1], found[0])
    assert_same_rows(found[2], found[0])


@pytest.mark.usefixtures("answered")
def test_an_image_that_looks_like_a_test_image_is_not_shown(
    trained_world: Any, workspace: Workspace, tmp_path: Path
) -> None:
    (gone, *kept) = sorted({e.image_id for e in step.read_examples(trained_world.dataset, workspace.cache, ["train"])})
    row = {"image_id": gone, "split": "train", "near_image_id": IMAGE_IDS[0], "distance": 0}
    world = grown(trained_world, workspace, tmp_path, excluded=pa.Table.from_pylist([row], excluded_schema()))
    inputs = step.EvaluationInputs(
        "tiny", world.train, world.dataset, world.features, world.vision_tower, world.language_model_folder
    )
    _, options = step._questions(world.test_examples, world.config, TWO, inputs, workspace)
    assert {shot.image_id for shots in options["shots"].values() for shot in shots} == set(kept)


def test_shots_that_do_not_fit_are_told_before_anything_is_answered(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    """The longest is a question: a prefix of 3, a prompt of 6, and two shots of 3 + 6 + 2."""
    for max_new_tokens, fits in ((97, True), (98, False)):
        config = TWO.model_copy(update={"max_new_tokens": max_new_tokens})
        if fits:
            evaluated(trained_world, workspace, config)
            answered.clear()
        else:
            with pytest.raises(ConfigError, match=r"takes 129 positions .* expected at most the language model's 128"):
                evaluated(trained_world, workspace, config)
    assert answered == []


def test_without_shots_nothing_that_is_kept_names_them(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    assert "few_shot" not in EvaluationConfig().model_dump(mode="json")
    plain, _ = evaluated(trained_world, workspace)
    assert plain.inputs.keys() == {"model_digest", "test_digest", "encoder_key"}
    assert "shots" not in pq.read_table(file_of(plain, "replies.parquet", workspace)).column_names
    assert "shots" not in file_of(plain, "report.json", workspace).read_text()
    shown, _ = evaluated(trained_world, workspace, TWO)
    assert shown.config["few_shot"] == {"examples": 2, "seed": 0}
    told = json.loads(file_of(shown, "report.json", workspace).read_text())["provenance"]
    assert told["shots before each question"] == "2"
    # No text of the train split leaves it: a picture that is forgotten leaves no words here.
    table = pq.read_table(file_of(shown, "replies.parquet", workspace))
    assert {len(digest) for digest in table["shots"].to_pylist()} == {64}
