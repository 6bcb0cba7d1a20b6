"""The smoke test of a version, in processes of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_parts import example_row, store_features, store_shard

from data_prep.dataset import read_examples
from data_prep.features import FeatureStore
from data_prep.schemas import examples_schema, predictions_schema
from infra.digests import digest_bytes
from infra.errors import IntegrityError, PlatformError
from infra.outputs import Manifest, Part, upload_part
from infra.tracking import ModelVersion
from infra.workspace import Workspace
from training import smoke_test, version
from training.asking import Kind
from training.evaluation_config import FewShotConfig
from training.few_shot import EncodedShots
from training.package import TRAINABLES, Package, write_package
from training.predictor import Predictor
from training.shots import few_shot_of
from training.smoke_test import Answers, Request, answers_to
from training.version import _is_same, check_answers, held_out, model_card

VERSION = ModelVersion("tiny", "1", "run", "source")


@pytest.fixture
def package(world: Any, tmp_path: Path) -> Package:
    card = model_card("tiny", world.parts, world.evaluation, world.cache)
    return write_package(tmp_path / "package", card, world.cache.path("train", world.parts.train.parts[0]))


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "in_fresh_process", smoke_test.in_fresh_process)


def checked(world: Any, package: Package, workspace: Workspace) -> dict[str, int]:
    return check_answers(package, VERSION, world.evaluation, world.parts, workspace)


@pytest.mark.usefixtures("in_processes")
def test_a_fresh_process_answers_three_examples_of_each_task_as_the_evaluation_did(
    world: Any, package: Package, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world has two captions only."""
    assert [held.task for held in held_out(world.evaluation, world.parts.dataset, world.cache)] == [
        "caption", "caption", "vqa", "vqa", "vqa",
    ]  # fmt: skip
    monkeypatch.setattr(Predictor, "load", None)  # not in this one
    assert checked(world, package, workspace) == {"asked": 5, "agreed": 5}


@pytest.mark.usefixtures("in_processes")
def test_what_the_fresh_process_refuses_is_refused_in_its_words(
    world: Any, package: Package, workspace: Workspace
) -> None:
    with package.trainables.open("ab") as file:
        file.write(b"?")
    with pytest.raises(IntegrityError, match=rf"^\S*{TRAINABLES}: found sha256 .*anew\.$"):
        checked(world, package, workspace)


@pytest.mark.usefixtures("in_processes")
def test_a_process_that_dies_or_takes_too_long_is_a_fault_of_the_platform(
    world: Any, package: Package, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\necho out of memory >&2\nkill -9 $$\n")
    dying.chmod(0o755)
    with monkeypatch.context() as patch, pytest.raises(PlatformError, match=r"ended with -9 \(out of memory\)"):
        patch.setattr("sys.executable", str(dying))
        checked(world, package, workspace)
    monkeypatch.setattr(smoke_test, "MAX_SECONDS", 0.01)
    with pytest.raises(PlatformError, match=r"did not answer 5 examples within 0\.01 s"):
        checked(world, package, workspace)


def test_one_other_answer_refuses_the_version(
    world: Any, package: Package, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "in_fresh_process", one_other)
    with pytest.raises(IntegrityError, match=r"4 of 5 test examples .*expected 5.*found 'another'"):
        checked(world, package, workspace)
    # A language model in bf16 gives other texts in another batch, so most must do.
    card = package.card
    in_bf16 = card.model_copy(update={"training": card.training.model_copy(update={"precision": "bf16"})})
    assert checked(world, package.model_copy(update={"card": in_bf16}), workspace) == {"asked": 5, "agreed": 4}


def one_other(request: Request) -> Answers:
    answers = answers_to(request)
    return answers.model_copy(update={"texts": ["another", *answers.texts[1:]]})


def test_pictures_that_are_encoded_otherwise_than_featurize_did_refuse_the_version(
    world: Any, package: Package, workspace: Workspace
) -> None:
    """Low bits do not, and the answers are those of the stored features."""
    image_ids = [held.image_id for held in held_out(world.evaluation, world.parts.dataset, world.cache)]
    stored_BPV = FeatureStore(world.parts.features, world.cache).gather(image_ids)

    def with_features(values: Any) -> Any:
        old = world.parts.features
        made = altered(old, store_features(world.store, image_ids, values))
        return replace(world, parts=replace(world.parts, features=made))

    assert checked(with_features(stored_BPV * (1 + 2**-10)), package, workspace)["asked"] == 5
    with pytest.raises(IntegrityError, match=r"are 2\.000 of their norm away from the stored ones; expected at most 0"):
        checked(with_features(-stored_BPV), package, workspace)


@pytest.mark.parametrize(
    ("kind", "found", "is_same"),
    [
        ("regress", "0.3337, 120", True),
        ("regress", "0.335, 120", False),
        ("text", "0.3337, 120", False),
        ("text", "0.3336, 120", True),
    ],
)
def test_a_number_may_differ_in_the_last_digit_that_is_told(kind: Kind, found: str, is_same: bool) -> None:
    assert _is_same(kind, "0.3336, 120", found) == is_same


def altered(made: Manifest, parts: list[Part], **fields: Any) -> Manifest:
    draft = made.draft.model_copy(update={"parts": parts})
    return Manifest.model_validate(made.model_dump(exclude={"digest"}) | {"draft": draft.model_dump(), **fields})


def with_shots(world: Any, package: Package, folder: Path) -> Any:
    """A train split of six of its images; and an evaluation that showed two of them before each question."""
    examples = []
    for image in world.images[10:16]:
        for task, prompt, target in (("caption", "", "a red seven"), ("vqa", "how many?", "two")):
            examples.append(example_row(digest_bytes(image), task, prompt, [target]))
    shard = store_shard(world.store, folder, examples=pa.Table.from_pylist(examples, examples_schema()))
    dataset = altered(world.parts.dataset, [*world.parts.dataset.parts, *shard])
    config, features = FewShotConfig(examples=2), FeatureStore(world.parts.features, world.cache)
    answered = held_out(world.evaluation, world.parts.dataset, world.cache)
    shown = read_examples(dataset, world.cache, ["train"])
    found = few_shot_of(config, [(one.image_id, one.task) for one in answered], shown, package.card.training)
    before = [found.shots[found.digests[one.image_id, one.task]] for one in answered]
    texts = Predictor.load(package.folder, world.cache.folder).answer_encoded(
        features.gather([one.image_id for one in answered]),
        [one.task for one in answered],
        [one.prompt for one in answered],
        [one.image_id for one in answered],
        [EncodedShots(shots, features.gather([shot.image_id for shot in shots])) for shots in before],
    )
    assert texts != [one.prediction for one in answered]
    said = dict(zip((one.example_id for one in answered), texts, strict=True))
    (part,) = world.evaluation.parts_of("predictions")
    rows = pq.read_table(world.cache.path("evaluate", part)).to_pylist()
    rows = [row | {"prediction": said.get(row["example_id"], row["prediction"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, predictions_schema()), folder / "predictions.parquet")
    made = upload_part(world.store, "evaluate", folder / "predictions.parquet", "predictions", len(rows))
    told = {"config": {**world.evaluation.config, "few_shot": config.model_dump()}}
    return replace(
        world, parts=replace(world.parts, dataset=dataset), evaluation=altered(world.evaluation, [made], **told)
    )


def test_a_few_shot_evaluation_is_checked_with_its_shots(
    world: Any, package: Package, workspace: Workspace, tmp_path: Path
) -> None:
    shown = with_shots(world, package, tmp_path)
    assert checked(shown, package, workspace) == {"asked": 5, "agreed": 5}
    without = altered(shown.evaluation, shown.evaluation.parts, config=world.evaluation.config)
    with pytest.raises(IntegrityError, match="of 5 test examples were answered as in the evaluation"):
        checked(replace(shown, evaluation=without), package, workspace)
