"""The smoke test of a version, in processes of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored_parts import store_features

from data_prep.features import FeatureStore
from infra.errors import IntegrityError, PlatformError
from infra.outputs import Manifest
from infra.tracking import ModelVersion
from infra.workspace import Workspace
from training import smoke_test, version
from training.package import TRAINABLES, Package, write_package
from training.predictor import Predictor
from training.smoke_test import Reply, Request, reply_to
from training.version import check_answers, held_out, model_card

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


def one_other(request: Request) -> Reply:
    reply = reply_to(request)
    return reply.model_copy(update={"texts": ["another", *reply.texts[1:]]})


def test_pictures_that_are_encoded_otherwise_than_featurize_did_refuse_the_version(
    world: Any, package: Package, workspace: Workspace
) -> None:
    """Low bits do not, and the answers are those of the stored features."""
    image_ids = [held.image_id for held in held_out(world.evaluation, world.parts.dataset, world.cache)]
    stored_BPV = FeatureStore(world.parts.features, world.cache).gather(image_ids)

    def with_features(values: Any) -> Any:
        old = world.parts.features
        draft = old.draft.model_copy(update={"parts": store_features(world.store, image_ids, values)})
        made = Manifest.model_validate(old.model_dump(exclude={"digest"}) | {"draft": draft.model_dump()})
        return replace(world, parts=replace(world.parts, features=made))

    assert checked(with_features(stored_BPV * (1 + 2**-10)), package, workspace)["asked"] == 5
    with pytest.raises(IntegrityError, match=r"are 2\.000 of their norm away from the stored ones; expected at most 0"):
        checked(with_features(-stored_BPV), package, workspace)
