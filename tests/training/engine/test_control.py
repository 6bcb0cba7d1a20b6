"""When a training ends, what it exports, and what it leaves out; one rank in this process.

Shown to fail, by one change each: see the tests.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import final, folder_of
from torch import Tensor
from training_program import poison
from watching import Watching

from infra.errors import ConfigError, DataError, Interrupted
from training.data import GlobalBatch
from training.job import TrainJob
from training.loop import TrainLoop, run_rank
from training.setup import Prepared

MakeJob = Callable[..., TrainJob]
DROPOUT = {"kind": "mlp", "prefix_tokens": 2, "width": 16, "dropout": 0.1}
pytestmark = pytest.mark.usefixtures("one_rank")


def stopped_at(job: TrainJob, step: int) -> dict[str, Tensor]:
    """What is trained after `step` global steps; the training can go on."""
    with pytest.raises(Interrupted):
        run_rank(job, Watching(step))
    return folder_of(job).load(step).tensors["trainables"]


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture
def make(tmp_path: Path, make_job: MakeJob) -> Callable[..., TrainJob]:
    """make("name", stopping={...}, ...): 12 global steps, a validation and a checkpoint every other."""

    def made(name: str, **config: Any) -> TrainJob:
        every = {"checkpoint_every_steps": 2, "validate_every_steps": 2, "keep_checkpoints": 1}
        return make_job(tmp_path / name, {"mapper": DROPOUT, **every, **config}, {"zero_stage": 0})

    return made


@pytest.fixture
def validation(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What validations find, by global step; 1.0 where it is not filled in."""
    script: dict[int, float] = {}
    monkeypatch.setattr(
        TrainLoop, "_validation_losses", lambda self: {"val_loss": script.get(self.step, 1.0), "val_loss_vqa": 0.5}
    )
    return script


def test_a_training_ends_when_validation_was_no_better_for_so_long_and_stays_at_its_end(
    make: Callable[..., TrainJob], validation: dict[int, float]
) -> None:
    """Killed or not. Ranks that are started again after the end train no further."""
    validation.update({2: 0.9, 4: 0.8, 6: 0.85, 8: 0.9, 10: 0.1})
    undisturbed, stopped = (make(name, stopping={"patience": 2}) for name in ("undisturbed", "stopped"))
    run_rank(undisturbed, Watching())
    stopped_at(stopped, 7)
    run_rank(stopped, Watching())
    for job in (undisturbed, stopped):
        assert final(job).step == 8
        assert (
            "ended after global step 8 of 12: val_loss was no better for 2 validations" in final(job).state["messages"]
        )
    assert final(stopped).state["best"] == {"step": 4, "value": 0.8, "num_since": 2}
    assert_same_bits(final(stopped).tensors["export"], final(undisturbed).tensors["export"])
    run_rank(stopped, Watching())
    assert final(stopped).step == 8 and folder_of(stopped).steps()[-1] == 8


@pytest.mark.parametrize("stop", [0, 5, 7])
def test_the_best_validation_is_exported_though_newer_checkpoints_came_after_it(
    stop: int, make: Callable[..., TrainJob], validation: dict[int, float]
) -> None:
    validation.update({4: 0.9, 6: 0.8})
    job = make("best", stopping={"export": "best"}, validate_every_steps=3, checkpoint_every_steps=4)
    if stop:
        stopped_at(job, stop)
    run_rank(job, Watching())
    assert final(job).step == 12 and "exported global step 6, the best by val_loss" in final(job).state["messages"]
    assert_same_bits(final(job).tensors["export"], stopped_at(make("as far"), 6))


def test_a_damaged_best_is_told_and_the_last_is_exported(
    make: Callable[..., TrainJob], validation: dict[int, float], tmp_path: Path
) -> None:
    validation.update({4: 0.8})
    job = make("best", stopping={"export": "best"})
    stopped_at(job, 9)
    (damaged,) = (tmp_path / "best").rglob("00000004/trainables.safetensors")
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    run_rank(job, Watching())
    messages = " ".join(final(job).state["messages"])
    assert "left out the checkpoint of step 4: " in messages and "00000004/trainables.safetensors: found" in messages
    assert "exported the last global step: no whole checkpoint of the best val_loss" in messages
    assert_same_bits(final(job).tensors["export"], final(job).tensors["trainables"])


@pytest.mark.parametrize("stop", [0, 9])
def test_an_average_is_the_mean_of_the_last_scheduled_checkpoints_also_after_a_stop_between_them(
    stop: int, make: Callable[..., TrainJob]
) -> None:
    """One more checkpoint than are kept otherwise, and one that was not scheduled."""
    job = make("average", stopping={"export": "average", "average_checkpoints": 3}, checkpoint_every_steps=4)
    if stop:
        stopped_at(job, stop)
    run_rank(job, Watching())
    parts = [stopped_at(make(f"as far as {step}"), step) for step in (4, 8)] + [final(job).tensors["trainables"]]
    expected = {name: sum(part[name].double() for part in parts) / 3 for name in parts[0]}
    assert_same_bits(final(job).tensors["export"], {name: value.float() for name, value in expected.items()})
    assert "exported the mean of 3 checkpoints" in final(job).state["messages"]


def test_after_a_global_step_that_is_not_finite_the_weights_are_those_of_a_training_without_it(
    make: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = TrainLoop._train_step

    def without(self: TrainLoop, batch: GlobalBatch) -> Any:
        return ({}, False) if self.step + 1 in (5, 6) else train_step(self, batch)

    skipping, expected = make("skipping"), make("without")
    with monkeypatch.context() as patched:
        patched.setattr(TrainLoop, "_train_step", without)
        run_rank(expected, Watching())
    monkeypatch.setattr(TrainLoop, "_train_step", train_step)  # put back after `poison`
    poison({5, 6})
    stopped_at(skipping, 7)
    run_rank(skipping, Watching())
    for file in ("trainables", "optimizer"):
        assert_same_bits(final(skipping).tensors[file], final(expected).tensors[file])
    told = [message for message in final(skipping).state["messages"] if message.endswith("the step was left out")]
    assert [message.partition(":")[0] for message in told] == ["global step 5", "global step 6"]


def test_global_steps_that_are_not_finite_are_counted_over_a_stop(
    make: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainLoop, "_train_step", TrainLoop._train_step)
    poison({2, 4, 5, 6})
    job = make("poisoned", max_skipped_steps=2)
    stopped_at(job, 5)
    with pytest.raises(DataError, match=r"global step 6: the loss .* hold the examples 0{4}.*Look at their features"):
        run_rank(job, Watching())


def test_a_validation_that_is_not_finite_is_never_the_best_and_no_point_of_a_curve(
    make: Callable[..., TrainJob], validation: dict[int, float]
) -> None:
    validation.update({4: 0.8, 6: float("nan"), 8: float("inf"), 10: 0.9})
    job = make("nan", stopping={"export": "best"})
    run_rank(job, Watching())
    assert [step for step, _ in final(job).state["history"]["curves"]["val_loss"]] == [2, 4, 10, 12]
    told = [message for message in final(job).state["messages"] if "not finite" in message]
    assert told == [f"validation after global step {step}: a loss is not finite; it is left out" for step in (6, 8)]
    assert final(job).state["best"]["step"] == 4


def test_the_mapper_learns_first_and_alone(make: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch) -> None:
    """And only what both have learnt can be the best."""
    models: list[Any] = []
    build = Prepared.build_model
    monkeypatch.setattr(Prepared, "build_model", lambda self: models.append(build(self)) or models[-1])
    regime = {"kind": "lora", "rank": 2, "learning_rate": 1e-2, "mapper_first_fraction": 0.5}
    job = make("phases", regime=regime, stopping={"patience": 1, "export": "best"}, learning_rate=1e-2)
    monkeypatch.setattr(TrainLoop, "_validation_losses", lambda self: {"val_loss": self.step / 10})
    run_rank(job, Watching())
    first, second = models
    updates = {name: value for name, value in first.lm.state_dict().items() if "lora_B" in name}
    assert updates and all(not value.any() for value in updates.values()), "changed before the border"
    assert all(value.any() for name, value in second.lm.state_dict().items() if "lora_B" in name)
    assert final(job).state["best"]["step"] == 8 and final(job).step == 10
    assert final(job).tensors["export"].keys() == final(job).tensors["trainables"].keys()
    border = make("border", regime=regime, learning_rate=1e-2)
    assert all(name.startswith("mapper.") for name in stopped_at(border, 6))


def test_a_mean_leaves_out_checkpoints_in_which_the_mapper_learnt_alone(make: Callable[..., TrainJob]) -> None:
    regime = {"kind": "lora", "rank": 2, "learning_rate": 1e-2, "mapper_first_fraction": 0.5}
    job = make("phases", regime=regime, stopping={"export": "average", "average_checkpoints": 4})
    run_rank(job, Watching())
    messages = final(job).state["messages"]
    assert "left out the checkpoint of step 6: it is of the phase that trained the mapper first" in messages
    assert "exported the mean of 3 checkpoints" in messages


@pytest.mark.parametrize(
    ("num_images", "metric", "found"), [(7, "val_loss", "no objective"), (8, "val_loss_vqa", "caption")]
)
def test_a_stopping_rule_that_no_validation_example_serves_is_refused(
    num_images: int, metric: str, found: str, tmp_path: Path, make_job: MakeJob
) -> None:
    """The eighth image is the first of the val split, and has a caption alone."""
    job = make_job(tmp_path, {"stopping": {"patience": 1, "metric": metric}}, num_images=num_images)
    with pytest.raises(ConfigError, match=f"stopping waits for {metric}, and the val split has examples of {found};"):
        run_rank(job, Watching())
