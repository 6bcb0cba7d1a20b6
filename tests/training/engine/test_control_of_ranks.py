"""Two ranks come to the same end. What one rank does is in test_control.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ranks import Ranks, final, folder_of

from infra.errors import DataError
from training.job import TrainJob

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_loss_of_one_rank_that_is_not_finite_skips_the_global_step_on_both(
    stage: int, ranks: Ranks, make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    """And too many in a row end both, with the examples of the rank at fault."""
    job = make_job(tmp_path, {"max_skipped_steps": 1}, {"num_ranks": 2, "zero_stage": stage})
    assert ranks.run(job, tmp_path, {1: {"POISON": "3,6"}}) == [0, 0]
    told = [message for message in final(job).state["messages"] if message.endswith("the step was left out")]
    assert [message.partition(":")[0] for message in told] == ["global step 3", "global step 6"]
    assert final(job).state["num_updates"] == 10
    job = make_job(tmp_path / "more", job.config.model_dump(), job.resources.model_dump())
    assert ranks.run(job, tmp_path / "more", {1: {"POISON": "6,7"}}) == [DataError.exit_code] * 2
    assert not folder_of(job).load(4).state["finished"]


def test_early_stopping_ends_both_ranks_at_the_same_global_step(
    ranks: Ranks, make_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    """With a learning rate so small that no weight changes and no validation is better than the first."""
    config = {"stopping": {"patience": 1, "export": "best"}, "validate_every_steps": 1, "learning_rate": 1e-30}
    job = make_job(tmp_path, config, {"num_ranks": 2, "zero_stage": 3})
    assert ranks.run(job, tmp_path) == [0, 0]
    curve = final(job).state["history"]["curves"]["val_loss"]
    assert final(job).step == curve[-1][0] == 2
    assert final(job).state["best"]["step"] == 1
    assert ranks.run(job, tmp_path) == [0, 0]
    assert final(job).step == curve[-1][0]
