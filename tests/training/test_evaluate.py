"""The evaluate step: what it makes, that it makes it once, and what it does where it is stopped or lied to."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluating import CONFIG, evaluated, file_of, request_of, rows_of, units_here

from data_prep.corruptions import Corruption
from data_prep.features import FeatureStore
from data_prep.images import decode
from infra.errors import DataError, IntegrityError
from infra.outputs import find_output
from infra.progress import Silent
from infra.ray import connected
from infra.settings import ActorResources, RayResources
from infra.workspace import Workspace
from training import evaluate as step
from training.answering import Answerer
from training.asking import BLIND, Asked, Reply, blind_id
from training.champion_scores import scores_of
from training.generation import generate
from training.objectives.answer_space import AnswerSpace
from training.scoring import Scorer
from training.trained import load_trained

NUM_ANSWERED = 20
"""Ten test images with a caption and a question each; the third task was not trained. As many texts are generated: with
two prompts in all, what is asked of a swapped image is asked of its own example too."""
NUM_ASKED = NUM_ANSWERED + 2 + NUM_ANSWERED
"""And a text for each prompt without an image, and the likelihood of each example's target; no caption differs from
another image's, so no wrong one is asked about."""


@pytest.fixture
def workspace(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Units of six, so that there are seven."""
    monkeypatch.setattr(step, "REPLIES_PER_UNIT", 6)
    actors = ActorResources(num_actors=1, rows_per_batch=4, max_restarts=0)
    return replace(workspace, profile=workspace.profile.model_copy(update={"evaluate": actors}))


@pytest.fixture
def units_run(monkeypatch: pytest.MonkeyPatch) -> list[list[Asked]]:
    return units_here(monkeypatch)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    resources = RayResources(num_cpus=2, object_store_memory_bytes=100 * 2**20)
    with connected(resources, tmp_path_factory.mktemp("ray")):
        yield


def answer_alone(world: Any, workspace: Workspace) -> Callable[[str, str], str]:
    """(image id, text before the answer) → the model's text, one image at a time."""
    features = FeatureStore(world.features, workspace.cache)
    model, language_model = load_trained(world.train, features, world.language_model_folder, workspace.cache, "cpu")

    def answer(image_id: str, prompt: str) -> str:
        patches_1PV = torch.from_numpy(features.gather([image_id]).astype(np.float32))
        return generate(model, language_model, patches_1PV, [Asked(image_id, prompt)], CONFIG.generation)[0]

    return answer


@pytest.mark.slow
def test_every_test_example_is_answered_with_its_image_and_with_another_and_scored(
    ray: None, trained_world: Any, workspace: Workspace
) -> None:
    manifest, _ = evaluated(trained_world, workspace)
    rows = rows_of(manifest, workspace)
    examples = [each for each in trained_world.test_examples if each.task != "count"]
    assert [row["example_id"] for row in rows] == [each.example_id for each in examples]
    assert manifest.num_rows == len(rows) == NUM_ANSWERED
    answer = answer_alone(trained_world, workspace)
    prompts = {"caption": "caption:", "vqa": "question: which digit answer:"}
    for row, example in zip(rows, examples, strict=True):
        assert (row["image_id"], row["prompt"]) == (example.image_id, example.prompt)
        assert tuple(row["references"]) == example.targets
        words = {"caption": "3", "vqa": "1"}[example.task]
        told = {"task": example.task, "source": example.source, "answer_words": words}
        assert dict(row["slices"]) == {**example.attributes, **told}
        assert row["control_image_id"] != row["image_id"]
        assert row["prediction"] == answer(row["image_id"], prompts[row["task"]])
        assert row["control_prediction"] == answer(row["control_image_id"], prompts[row["task"]])
    assert sum(row["prediction"] != row["control_prediction"] for row in rows) > NUM_ANSWERED / 2

    report = json.loads(file_of(manifest, "report.json", workspace).read_text())
    of_likelihoods = {"perplexity": report["metrics"]["perplexity"]}
    for told, column in (("metrics", "prediction"), ("control", "control_prediction"), ("blind", "blind_prediction")):
        replies = {row["example_id"]: Reply(row[column]) for row in rows}
        expected, by_example = Scorer(examples, AnswerSpace()).score(replies)
        assert report[told] == manifest.facts[told] == expected | (of_likelihoods if told == "metrics" else {})
        kept = {"metrics": "scores", "control": "control_scores", "blind": "blind_scores"}[told]
        assert {row["example_id"]: dict(row[kept]) for row in rows} == by_example
    assert len({row["blind_prediction"] for row in rows}) == 2, "without an image, a prompt has one text"
    assert all(0 < row["confidence"] <= 1 for row in rows)
    assert report["calibration"].keys() == {"vqa"}
    assert report["num_examples"] == {"caption": 10, "vqa": 10}
    assert {(each["name"], each["value"]) for each in report["slices"]} == {
        ("task", "caption"), ("task", "vqa"), ("parity", "odd"), ("parity", "even"),
        ("answer_words", "1"), ("answer_words", "3"),
    }  # fmt: skip
    assert report["curves"] == {"loss": [[1, 2.0], [2, 1.0]], "val_loss": [[2, 1.5]]}
    assert report["dataset"] == {"images": 13}
    assert manifest.identity["model_digest"] == trained_world.train.identity["model_digest"]
    page = file_of(manifest, "report.html", workspace).read_text()
    assert page.count("data:image/png;base64,") >= 3 * CONFIG.gallery_examples
    assert "<script src" not in page and "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_damaged_weights_are_named(ray: None, trained_world: Any, workspace: Workspace) -> None:
    (part,) = trained_world.train.parts_of("trainables")
    path = workspace.store.folder / "train" / "parts" / part.digest  # type: ignore[attr-defined]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"train/parts/{part.digest}"):
        evaluated(trained_world, workspace)
    assert find_output(workspace.store, request_of(trained_world)) is None


def test_the_second_evaluation_answers_nothing(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    first, reused = evaluated(trained_world, workspace)
    assert not reused and sum(map(len, units_run)) == NUM_ASKED
    units_run.clear()
    stored = workspace.store.list("evaluate")
    assert evaluated(trained_world, workspace) == (first, True)
    assert units_run == [] and workspace.store.list("evaluate") == stored


class StopsAfter(Silent):
    """A person who interrupts after so many units."""

    def __init__(self, num_units: int) -> None:
        self.left = num_units

    def advance(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_stopped_evaluation_commits_nothing_and_answers_only_the_rest(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    undisturbed, _ = evaluated(trained_world, workspace)
    all_units = list(units_run)
    assert [len(unit) for unit in all_units] == [6] * 7
    workspace.store.delete(undisturbed_key := request_of(trained_world).manifest_key)
    units_run.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluated(trained_world, replace(workspace, progress=StopsAfter(2)))
    assert not workspace.store.exists(undisturbed_key)
    assert units_run == all_units[:2]
    units_run.clear()
    resumed, reused = evaluated(trained_world, workspace)
    assert not reused
    assert units_run == all_units[2:]
    assert resumed.draft == undisturbed.draft
    assert workspace.store.list("evaluate/journal") == []


def test_the_gate_finds_every_slice_of_the_report_with_the_scores_that_it_shows(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    manifest, _ = evaluated(trained_world, workspace)
    found = scores_of(manifest, workspace.cache).examples
    assert all({"task", "source", "answer_words", "parity"} <= example.slices.keys() for example in found)
    shown = json.loads(file_of(manifest, "report.json", workspace).read_text())["slices"]
    assert {each["name"] for each in shown} == {"task", "answer_words", "parity"}  # of which there are several
    for each in shown:
        members = [example for example in found if example.slices[each["name"]] == each["value"]]
        assert len(members) == each["num_examples"]
        for metric, value in each["metrics"].items():
            scored = [example.scores[metric] for example in members if metric in example.scores]
            assert sum(scored) / len(scored) == pytest.approx(value)


def test_fewer_test_images_are_the_first_by_id(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    few = CONFIG.model_copy(update={"max_test_images": 3})
    rows = rows_of(evaluated(trained_world, workspace, few)[0], workspace)
    first = sorted({each.image_id for each in trained_world.test_examples})[:3]
    assert sorted({row["image_id"] for row in rows}) == first
    assert {row["control_image_id"] for row in rows} == set(first)


def test_an_empty_test_split_is_told(units_run: list[list[Asked]], trained_world: Any, workspace: Workspace) -> None:
    images_only = trained_world.dataset.draft.model_copy(update={"parts": trained_world.dataset.parts_of("images")})
    dataset = trained_world.dataset.model_copy(update={"draft": images_only})
    with pytest.raises(DataError, match="the test split is empty; expected at least 2 images"):
        evaluated(replace(trained_world, dataset=dataset), workspace)


def test_a_test_split_of_untrained_tasks_only_is_told(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    trained_on = {**trained_world.train.facts["config"], "objectives": {"classify": {}}}
    draft = trained_world.train.draft.model_copy(update={"facts": {**trained_world.train.facts, "config": trained_on}})
    train = trained_world.train.model_copy(update={"draft": draft})
    with pytest.raises(DataError):
        evaluated(replace(trained_world, train=train), workspace)


def test_a_report_may_be_without_pictures(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    manifest, _ = evaluated(trained_world, workspace, CONFIG.model_copy(update={"gallery_examples": 0}))
    assert "data:image" not in file_of(manifest, "report.html", workspace).read_text()


class Brightness:
    """A tower whose features are how bright a picture is, which any corruption of noise changes."""

    def encode(self, images: Sequence[bytes]) -> np.ndarray:
        means = [np.asarray(decode(data), np.float64).mean() / 25.5 for data in images]
        return np.stack([np.full((4, 8), value, np.float16) for value in means])


def test_scores_with_worse_pictures_stand_beside_those_of_the_same_examples(
    units_run: list[list[Asked]], trained_world: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answerer, "tower", Brightness())
    config = CONFIG.model_copy(
        update={
            "corruptions": (Corruption(kind="brightness", severity=5), Corruption(kind="jpeg")),
            "max_corrupted_images": 6,
        }
    )
    manifest, _ = evaluated(trained_world, workspace, config)
    report = json.loads(file_of(manifest, "report.json", workspace).read_text())
    assert [*report["robustness"]] == ["brightness:5", "jpeg:3"]
    few = {"max_test_images": 6, "control_seed": 0}
    plain, _ = evaluated(trained_world, workspace, CONFIG.model_copy(update=few))
    for found in report["robustness"].values():
        assert found["num_examples"] == 12
        of_the_same = {name: plain.facts["metrics"][name] for name in found["without"]}
        assert found["without"] == pytest.approx(of_the_same) and found["metrics"].keys() == found["without"].keys()
    asked = [one for unit in units_run for one in unit if one.corruption]
    assert len(asked) == len(set(asked)) == 2 * 12 and len({one.image_id for one in asked}) == 6
    page = file_of(manifest, "report.html", workspace).read_text()
    assert "When the picture is bad" in page and "Brightness:5" in page


def test_the_mean_prefix_is_of_the_images_that_its_name_is_made_of(
    trained_world: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image has a question of a task that was not trained, and nothing else."""
    lonely = min(each.image_id for each in trained_world.test_examples)
    examples = [each for each in trained_world.test_examples if each.image_id != lonely or each.task == "count"]
    monkeypatch.setattr(step, "read_examples", lambda *_: examples)
    told: list[list[str]] = []

    def here(worker: type, arguments: Mapping[str, Any], units: Mapping[str, Any], _: object, keep: Any) -> None:
        told.append(arguments["options"]["blind_images"])
        raise KeyboardInterrupt

    asked: set[str] = set()
    units = step.units_of
    monkeypatch.setattr(
        step, "units_of", lambda every, size: asked.update(one.image_id for one in every) or units(every, size)
    )
    monkeypatch.setattr(step, "run_units", here)
    with pytest.raises(KeyboardInterrupt):
        evaluated(trained_world, workspace)
    (blind,) = [one for one in asked if one.startswith(BLIND)]
    assert blind == blind_id(told[0])
