"""One rank in this process, under DeepSpeed on a single-process group."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import final, folder_of
from safetensors.torch import load_file
from watching import Watching

from infra.errors import DataError, IntegrityError, Interrupted
from infra.outputs import Attempt
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Profile, Settings
from infra.store import open_store
from infra.workspace import Workspace
from training.checkpoints import Checkpoint
from training.config import TrainConfig
from training.data import GlobalBatch
from training.job import TrainJob
from training.language_model import frozen_digest, load_language_model
from training.loop import TrainLoop, run_rank
from training.objectives.answer_space import AnswerSpace
from training.prefix_model import PrefixModel, build_prefix_model, trainable_state
from training.schedule import learning_rate_factor, phases_of
from training.setup import Prepared, prepare
from training.train import train, train_request

pytestmark = pytest.mark.usefixtures("one_rank")


def assert_equal_weights(one: Checkpoint, other: Checkpoint) -> None:
    for file in ("trainables", "optimizer"):
        assert one.tensors[file].keys() == other.tensors[file].keys()
        for name, value in one.tensors[file].items():
            assert torch.equal(value, other.tensors[file][name]), name


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_interrupted_training_ends_with_the_same_weights(
    stage: int, tmp_path: Path, make_job: Callable[..., TrainJob]
) -> None:
    config = {
        "mapper": {
            "kind": "transformer",
            "prefix_tokens": 3,
            "width": 16,
            "num_layers": 1,
            "num_heads": 2,
            "dropout": 0.1,
        }
    }
    resources = {"zero_stage": stage}
    undisturbed = make_job(tmp_path / "undisturbed", config, resources)
    run_rank(undisturbed, Watching())
    stopped = make_job(tmp_path / "stopped", config, resources)
    with pytest.raises(Interrupted, match="after global step 6 of 12"):
        run_rank(stopped, Watching(stop_at=6))
    resumed = Watching()
    run_rank(stopped, resumed)
    assert resumed.steps[0] == 6
    assert_equal_weights(final(undisturbed), final(stopped))
    curves, expected = final(stopped).state["history"]["curves"], final(undisturbed).state["history"]["curves"]
    assert all(curves[name] == expected[name] for name in ("loss", "val_loss", "grad_norm", "learning_rate"))
    assert final(stopped).state["resumed_from"] == [6]


def bytes_digest(module: torch.nn.Module) -> str:
    """sha256 over all parameters and buffers, written here and not taken from the product."""
    hasher = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        hasher.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def models_prepared(monkeypatch: pytest.MonkeyPatch) -> list[PrefixModel]:
    """The models that ranks in this process train, as soon as they have them."""
    models: list[PrefixModel] = []
    build = Prepared.build_model

    def kept(self: Prepared) -> PrefixModel:
        models.append(build(self))
        return models[-1]

    monkeypatch.setattr(Prepared, "build_model", kept)
    return models


def test_training_learns_and_leaves_the_language_model_alone(
    tmp_path: Path, make_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, {"epochs": 30, "learning_rate": 2e-2}, {"zero_stage": 1})
    fresh = load_language_model(job.language_model_dir, torch.float32)
    shape = (job.features.facts["num_patches"], job.features.facts["vision_width"])
    before = build_prefix_model(job.config, fresh, shape, AnswerSpace())
    models = models_prepared(monkeypatch)
    run_rank(job, Watching())
    losses = [value for _, value in final(job).state["history"]["curves"]["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    (after,) = models
    assert bytes_digest(after.lm) == bytes_digest(before.lm), "the language model that was trained through"
    assert final(job).state["finished"]["frozen_digest"] == frozen_digest(before)
    trained, at_first = final(job).tensors["trainables"], trainable_state(before)
    assert trained.keys() == at_first.keys()
    assert all(not torch.equal(value, at_first[name]) for name, value in trained.items() if value.ndim > 1)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_frozen_parameter_that_changes_in_training_ends_it_without_a_result(
    stage: int, tmp_path: Path, make_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number of the language model, once, half way: as a flipped bit of memory would be."""
    job = make_job(tmp_path, {"learning_rate": 1e-3}, {"zero_stage": stage})
    train_step = TrainLoop._train_step

    def disturbed(self: TrainLoop, batch: GlobalBatch) -> Any:
        if self.step == 5:
            weight: Any = self.phase.engine.model.lm.get_input_embeddings().weight
            with torch.no_grad():
                getattr(weight, "ds_tensor", weight).reshape(-1)[3] += 1e-3
        return train_step(self, batch)

    monkeypatch.setattr(TrainLoop, "_train_step", disturbed)
    with pytest.raises(IntegrityError, match=r"the frozen parameters have digest .* after training; expected"):
        run_rank(job, Watching())
    newest, _ = folder_of(job).newest()
    assert newest is not None and not newest.state["finished"]


def test_a_loss_that_is_not_finite_names_the_examples(tmp_path: Path, make_job: Callable[..., TrainJob]) -> None:
    import numpy as np

    features = np.zeros((24, 4, 8), dtype=np.float16)
    features[3] = np.inf
    job = make_job(
        tmp_path, {"global_batch_images": 24, "max_skipped_steps": 1}, {"micro_batch_tokens": 1}, features=features
    )
    with pytest.raises(DataError, match=r"global step 2: the loss or its gradient is not finite.*00030000"):
        run_rank(job, Watching())


def test_bf16_trains_fp32_parameters(tmp_path: Path, make_job: Callable[..., TrainJob]) -> None:
    job = make_job(
        tmp_path, {"precision": "bf16", "epochs": 20, "mapper": {"kind": "mlp", "prefix_tokens": 2, "width": 8}}
    )
    run_rank(job, Watching())
    assert {value.dtype for value in final(job).tensors["trainables"].values()} == {torch.float32}
    losses = [value for _, value in final(job).state["history"]["curves"]["loss"]]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_an_end_token_that_a_frozen_language_model_cannot_tell_apart_is_told(
    tmp_path: Path, make_job: Callable[..., TrainJob]
) -> None:
    import shutil

    from safetensors.torch import save_file

    job = make_job(tmp_path, {"epochs": 1})
    assert prepare(job, 0, 1).material.messages == ()
    folder = tmp_path / "never met"
    shutil.copytree(job.language_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    rows = weights["transformer.wte.weight"]
    rows[5] = rows[9] = rows[0]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    job = job.model_copy(update={"language_model_dir": folder})
    (message,) = prepare(job, 0, 1).material.messages
    assert "2 other tokens are the same to this language model as its end-of-text token '<eos>'" in message
    full = job.config.model_dump() | {"regime": {"kind": "full", "learning_rate": 1e-4}}
    whole = job.model_copy(update={"config": TrainConfig.model_validate(full)})
    assert prepare(whole, 0, 1).material.messages == ()


def test_learning_rate_rises_then_falls_to_its_floor(tmp_path: Path, make_job: Callable[..., TrainJob]) -> None:
    config = make_job(tmp_path, {"warmup_fraction": 0.1, "min_learning_rate_fraction": 0.1}).config
    (phase,) = phases_of(config, 100)
    factors = [learning_rate_factor(config, phase, step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[10] == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True) and factors[-1] == pytest.approx(0.1, abs=1e-3)


def test_a_finished_training_is_exported_without_starting_ranks(
    tmp_path: Path, make_job: Callable[..., TrainJob], profile: Profile
) -> None:
    job = make_job(tmp_path)
    store = open_store(job.store_uri)
    request = train_request(job.config, "tiny", job.dataset, job.features, "c" * 64)
    job = job.model_copy(update={"fingerprint": request.fingerprint})
    run_rank(job, Watching())
    workspace = Workspace(Settings(var_dir=tmp_path), profile, store, PartCache(store, tmp_path / "cache"), Silent())
    attempt = Attempt(store, request)
    draft = train(job.config, job.dataset, job.features, job.language_model_dir, attempt, workspace)
    assert [part.name for part in draft.parts] == ["trainables.safetensors", "history.json"]
    exported = load_file(workspace.cache.path("train", draft.parts[0]))
    assert all(torch.equal(value, exported[name]) for name, value in final(job).tensors["trainables"].items())
    curves = json.loads(workspace.cache.path("train", draft.parts[1]).read_bytes())
    assert {"loss", "loss_caption", "loss_vqa", "grad_norm", "learning_rate"} == set(curves)
    assert draft.facts["validation_curve"]
    assert draft.counts["rows_out"] == draft.facts["num_train_examples"] > 0
    assert TrainConfig.model_validate(draft.facts["config"]) == job.config
    again = train(job.config, job.dataset, job.features, job.language_model_dir, attempt, workspace)
    assert again.identity == draft.identity and again.parts == draft.parts
