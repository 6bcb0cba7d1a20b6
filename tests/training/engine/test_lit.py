"""A locked-image tuning through the loop, under DeepSpeed: resumed, over ranks, exported and loaded again."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from no_tower import NO_TOWER
from ranks import final
from stored_parts import made_by
from tiny_text_towers import save_text_tower
from watching import Watching

from data_prep.dataset import Example, read_examples
from data_prep.features import FeatureStore
from infra.errors import ConfigError, DataError, Interrupted
from infra.outputs import Attempt, Draft, Manifest
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Profile, Settings
from infra.store import open_store
from infra.workspace import Workspace
from training.data import Ranks
from training.evaluate import EvaluationInputs, evaluate
from training.evaluation_config import EvaluationConfig
from training.job import TrainJob
from training.lit.material import lit_material
from training.lit.trained import load_lit
from training.lit.zero_shot import recall_at, retrieval_ranks, text_vectors
from training.loop import run_rank
from training.material import Examples
from training.train import train, train_request

REPOSITORY = Path(__file__).resolve().parents[3]
LIT = {
    "mapper": None,
    "regime": {"kind": "lit", "learning_rate": 5e-3},
    "objectives": {"contrast": {"width": 8, "loss": "infonce"}},
}
pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """BERT has dropout, Llama has none."""
    return {kind: save_text_tower(kind, tmp_path_factory.mktemp(kind)) for kind in ("bert", "llama")}


@pytest.fixture
def make_lit_job(make_job: Callable[..., TrainJob], towers: dict[str, Path]) -> Callable[..., TrainJob]:
    """make_lit_job(folder, kind of tower, config={...}, resources={...}, num_images=...)."""

    def make(folder: Path, tower: str, config: dict[str, Any] | None = None, **more: Any) -> TrainJob:
        job = make_job(folder, {**LIT, **(config or {})}, **more)
        return job.model_copy(update={"language_model_dir": towers[tower]})

    return make


def curve(job: TrainJob, name: str) -> list[float]:
    return [value for _, value in final(job).state["history"]["curves"][name]]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_interrupted_tuning_ends_with_the_same_weights(
    stage: int, tmp_path: Path, make_lit_job: Callable[..., TrainJob]
) -> None:
    undisturbed, stopped = (
        make_lit_job(tmp_path / name, "bert", resources={"zero_stage": stage}) for name in ("undisturbed", "stopped")
    )
    run_rank(undisturbed, Watching())
    with pytest.raises(Interrupted):
        run_rank(stopped, Watching(stop_at=6))
    run_rank(stopped, Watching())
    assert final(stopped).state["resumed_from"] == [6]
    for file in ("trainables", "optimizer"):
        for name, value in final(undisturbed).tensors[file].items():
            assert torch.equal(value, final(stopped).tensors[file][name]), name
    assert curve(stopped, "loss") == curve(undisturbed, "loss")


@pytest.fixture
def two_ranks(tmp_path: Path, make_lit_job: Callable[..., TrainJob]) -> dict[str, TrainJob]:
    """Tunings that two ranks have finished, by loss and stage. The last batch of an epoch has one image."""
    jobs = {}
    # Stage 3 last: DeepSpeed then replaces torch's linear function in the whole process, which changes low bits.
    for loss, stage in (("infonce", 0), ("siglip", 2), ("infonce", 3)):
        resources = {"num_ranks": 2, "zero_stage": stage}
        config = {"global_batch_images": 5, "objectives": {"contrast": {"width": 8, "loss": loss}}}
        jobs[f"{loss}-{stage}"] = make_lit_job(tmp_path / f"{loss}-{stage}", "llama", config, resources=resources)
    for name, job in jobs.items():
        (tmp_path / f"{name}.json").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", str(REPOSITORY / "tests" / "support" / "run_jobs.py")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        [*command, *(str(tmp_path / f"{name}.json") for name in jobs)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return jobs


def test_two_ranks_have_the_losses_of_one(
    tmp_path: Path, two_ranks: dict[str, TrainJob], make_lit_job: Callable[..., TrainJob]
) -> None:
    """Negatives are the whole global batch, whoever holds them."""
    for loss in ("siglip", "infonce"):
        config = {"global_batch_images": 5, "objectives": {"contrast": {"width": 8, "loss": loss}}}
        one = make_lit_job(tmp_path / f"one {loss}", "llama", config, resources={"zero_stage": 0})
        run_rank(one, Watching())
        for name, job in two_ranks.items():
            if name.startswith(loss):
                assert curve(job, "loss") == pytest.approx(curve(one, "loss"), abs=1e-4), name
                assert curve(job, "val_loss") == pytest.approx(curve(one, "val_loss"), abs=1e-4), name


def exported(job: TrainJob, folder: Path, profile: Profile) -> tuple[Draft, Workspace]:
    """What the train step makes of a finished training."""
    store = open_store(job.store_uri)
    request = train_request(job.config, "tiny", job.dataset, job.features, "c" * 64)
    run_rank(job.model_copy(update={"fingerprint": request.fingerprint}), Watching())
    workspace = Workspace(Settings(var_dir=folder), profile, store, PartCache(store, folder / "cache"), Silent())
    attempt = Attempt(store, request)
    return train(job.config, job.dataset, job.features, job.language_model_dir, attempt, workspace), workspace


def trained_manifest(draft: Draft) -> Manifest:
    return made_by("train", draft.parts, draft.identity).model_copy(update={"draft": draft})


def test_an_exported_tuning_loads_again_and_finds_texts(
    tmp_path: Path, make_lit_job: Callable[..., TrainJob], profile: Profile
) -> None:
    """21 images in nine kinds of colour and digit, of which each has a caption of its own."""
    job = make_lit_job(tmp_path, "bert", {"epochs": 30})
    draft, workspace = exported(job, tmp_path, profile)
    features = FeatureStore(job.features, workspace.cache)
    model, tower = load_lit(trained_manifest(draft), features, job.language_model_dir, workspace.cache, "cpu")
    captions: dict[str, list[str]] = {}
    for example in read_examples(job.dataset, workspace.cache, ["train"]):
        if example.task == "caption":
            captions.setdefault(example.targets[0], []).append(example.image_id)
    images = [image_id for owners in captions.values() for image_id in owners]
    with torch.no_grad():
        image_IE = model.image_vectors(torch.from_numpy(features.gather(images)))
    text_XE = text_vectors(model, tower, list(captions), 64)
    owners = {text: [images.index(found) for found in captions[caption]] for text, caption in enumerate(captions)}
    assert len(captions) == 9
    assert recall_at(retrieval_ranks(text_XE, image_IE, owners), 1) > 0.8, "chance is 0.11"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_towers_are_what_the_regime_says(
    precision: str, tmp_path: Path, make_lit_job: Callable[..., TrainJob]
) -> None:
    config = {"precision": precision, "epochs": 1}
    locked = make_lit_job(tmp_path / "locked", "bert", {**config, "regime": {"kind": "lit", "learning_rate": None}})
    tuned = make_lit_job(tmp_path / "tuned", "bert", config)
    for job in (locked, tuned):
        run_rank(job, Watching())
    trained = {name.partition(".")[0] for name in final(locked).tensors["trainables"]}
    assert trained == {"text_projection", "image_projection", "loss"}
    assert final(locked).state["finished"]["num_frozen_parameters"] > 0
    assert final(tuned).state["finished"]["num_frozen_parameters"] == 0


def test_gradient_checkpointing_changes_no_bit(tmp_path: Path, make_lit_job: Callable[..., TrainJob]) -> None:
    plain, cheap = (
        make_lit_job(tmp_path / str(given), "bert", {"epochs": 1}, resources={"gradient_checkpointing": given})
        for given in (False, True)
    )
    for job in (plain, cheap):
        run_rank(job, Watching())
    for name, value in final(plain).tensors["trainables"].items():
        assert torch.equal(value, final(cheap).tensors["trainables"][name]), name


def test_examples_without_texts_are_refused_before_the_first_step(
    tmp_path: Path, make_lit_job: Callable[..., TrainJob], make_examples: Callable[[int], list[Example]]
) -> None:
    job = make_lit_job(tmp_path, "bert")
    features = FeatureStore(job.features, PartCache(open_store(job.store_uri), tmp_path / "cache"))
    questions = [example for example in make_examples(24) if example.task == "vqa"]
    with pytest.raises(DataError, match="no caption and no label"):
        lit_material(job, features, Examples(questions, []), Ranks(0, 1, None))


def test_evaluating_by_prompts_is_refused(
    tmp_path: Path, make_lit_job: Callable[..., TrainJob], profile: Profile
) -> None:
    job = make_lit_job(tmp_path, "bert", {"epochs": 1})
    draft, workspace = exported(job, tmp_path, profile)
    inputs = EvaluationInputs(
        "tiny", trained_manifest(draft), job.dataset, job.features, NO_TOWER, job.language_model_dir
    )
    with pytest.raises(ConfigError, match="answers no prompts"):
        evaluate(EvaluationConfig(), inputs, Attempt(workspace.store, None), workspace)  # type: ignore[arg-type]
