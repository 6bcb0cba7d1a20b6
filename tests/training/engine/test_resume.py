"""SIGKILL of ranks, then the same training once more: the weights are those of the undisturbed training, to the bit.

Every rank is a process of its own that runs `training.train` as under torchrun; dropout in the mapper and in LoRA, all
regularisers, and a border between two phases. Shown to fail, by one change each: see the tests.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from crash_points import Point, recorded
from ranks import KILLED, Ranks, final, folder_of

from infra.errors import Interrupted, PlatformError
from training.checkpoints import Checkpoint
from training.job import TrainJob

MakeJob = Callable[..., TrainJob]
MAPPER = {"kind": "transformer", "prefix_tokens": 3, "width": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1}
LORA = {"kind": "lora", "rank": 2, "dropout": 0.2, "learning_rate": 1e-2, "mapper_first_fraction": 0.5}
REGIMES: dict[str, Mapping[str, Any]] = {"prefix": {"kind": "prefix"}, "lora": LORA}
CONFIG = {
    "mapper": MAPPER,
    "regularisers": {
        "consistency": {"weight": 0.1},
        "adversarial": {"weight": 0.1},
        "label_smoothing": 0.1,
        "feature_dropout": 0.1,
        "feature_noise": 0.1,
    },
    "stopping": {"export": "average", "average_checkpoints": 2},
    "checkpoint_every_steps": 3,
    "validate_every_steps": 4,
}
"""12 global steps; the border is after the sixth, where a checkpoint falls too; validations fall between."""
COMMIT = ("checkpoint file", "manifest create", "checkpoints delete")
NUM_KILLS = 20
WAYS = [(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")]
BORDER = ["step | 6 | before", "step | 6 | after", "capture | 2 | after", "enter | 2 | before", "enter | 2 | after"]
BORDER += ["forward | 7 | before", "step | 7 | before", "step | 7 | after"]
"""Around the border, and the checkpoint before it."""
ELSEWHERE = ["prepare | 1 | after", "enter | 1 | before", "forward | 1 | after", "backward | 5 | after"]
ELSEWHERE += ["validation | 1 | after", "hand over | 3 | after", "finish | 1 | before", "finish | 1 | after"]


@dataclass
class Training:
    """One that has been trained undisturbed, and can be killed again and again in another folder."""

    ranks: Ranks
    job: TrainJob
    again: TrainJob
    folder: Path
    points: list[Point] = field(default_factory=list)
    """Of checkpoints' commits, in the undisturbed training."""

    def __post_init__(self) -> None:
        record = self.folder / "points"
        since = time.monotonic()
        assert set(self.ranks.run(self.job, self.folder, {0: {"FAULT_RECORD": str(record)}})) == {0}
        self.seconds = time.monotonic() - since
        self.points = [point for point in recorded(record) if point.action in COMMIT]
        self.expected = final(self.job)

    def kill_until_it_ends(self, disturbances: Sequence[Mapping[int, Mapping[str, str]]]) -> int:
        """Start anew; kill as told, as long as it has not come to its end; then finish it and compare. The number of
        kills."""
        shutil.rmtree(self.folder / "killed" / "store" / "train", ignore_errors=True)
        num_kills, resumed_from = 0, list[int]()
        for disturbed in disturbances:
            statuses = self.ranks.run(self.again, self.folder, disturbed)
            if set(statuses) == {0}:
                break
            assert KILLED in statuses
            num_kills += 1
            newest, skipped = folder_of(self.again).newest()
            assert not skipped, "a kill left a checkpoint that was committed and is not whole"
            if newest:
                resumed_from = [*newest.state["resumed_from"], *([] if newest.state["finished"] else [newest.step])]
        else:
            assert set(self.ranks.run(self.again, self.folder)) == {0}
        assert_same(final(self.again), self.expected)
        assert final(self.again).state["resumed_from"] == resumed_from
        return num_kills

    def check(self, *kills: Mapping[str, str], only: int | None = None) -> None:
        """Every rank is killed, or `only` one."""
        for told in kills:
            victims = range(self.job.resources.num_ranks) if only is None else [only]
            try:
                assert self.kill_until_it_ends([dict.fromkeys(victims, told)]) == 1, "it was not killed"
            except AssertionError as error:
                raise AssertionError(f"{told}: {error}") from error

    def check_random(self, seed: int, num_kills: int) -> None:
        """At random times over what the undisturbed training takes; every other time only one rank."""
        chance, left = random.Random(seed), num_kills
        while left > 0:
            disturbances = []
            for _ in range(min(left, 4)):
                victims = list(range(self.job.resources.num_ranks))
                told = {"KILL_AFTER": f"{chance.uniform(0, self.seconds):.3f}"}
                disturbances.append(dict.fromkeys(victims if chance.random() < 0.5 else [chance.choice(victims)], told))
            try:
                left -= max(1, self.kill_until_it_ends(disturbances))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {disturbances}: {error}") from error


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.step, found.state["messages"]) == (expected.step, expected.state["messages"])
    assert found.tensors.keys() == expected.tensors.keys() == {"trainables", "optimizer", "export"}
    for file, tensors in expected.tensors.items():
        assert found.tensors[file].keys() == tensors.keys()
        for name, value in tensors.items():
            assert torch.equal(value, found.tensors[file][name]), f"{file}: {name}"
    curves, expected_curves = (checkpoint.state["history"]["curves"] for checkpoint in (found, expected))
    for name in ("loss", "grad_norm", "learning_rate", "val_loss"):
        assert curves[name] == expected_curves[name], name


@pytest.fixture(scope="module")
def train(ranks: Ranks, make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Training]:
    """train(regime, stage, precision, num_ranks): trained undisturbed, once."""
    made: dict[tuple[Any, ...], Training] = {}

    def training(regime: str, stage: int, precision: str, num_ranks: int = 1) -> Training:
        key = (regime, stage, precision, num_ranks)
        if key not in made:
            folder = tmp_path_factory.mktemp("-".join(map(str, key)))
            config = {**CONFIG, "regime": REGIMES[regime], "precision": precision}
            resources = {"zero_stage": stage, "num_ranks": num_ranks, "rank_timeout_seconds": 30}
            jobs = [make_job(folder / name, config, resources) for name in ("undisturbed", "killed")]
            made[key] = Training(ranks, jobs[0], jobs[1], folder)
        return made[key]

    return training


def at(point: Point) -> dict[str, str]:
    return {"FAULT_AT": str(point)}


def commits(training: Training) -> list[list[Point]]:
    """Points by checkpoint. The third is the first that others are forgotten for, the last holds the export."""
    found: list[list[Point]] = [[]]
    for point in training.points:
        if point.action == COMMIT[0] and any(other.action == COMMIT[1] for other in found[-1]):
            found.append([])
        found[-1].append(point)
    assert len(found) == 4 and {point.action for point in found[2]} == set(COMMIT)
    return found


def sides(*commits: list[Point]) -> list[Point]:
    """Before and after every action."""
    return [point for points in commits for point in points if point.side != "within"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        pytest.param(0, "fp32", marks=pytest.mark.faults),
        pytest.param(1, "bf16", marks=pytest.mark.faults),
        pytest.param(2, "fp32", marks=pytest.mark.faults),
        (3, "bf16"),
    ],
)
def test_killed_at_any_point_it_ends_with_the_same_weights(
    stage: int, precision: str, train: Callable[..., Training]
) -> None:
    training = train("lora", stage, precision)
    training.check(*map(at, random.Random(stage).sample(sides(*commits(training)), 2)))
    training.check(*({"KILL_AT": call} for call in [BORDER[stage], BORDER[stage + 4], ELSEWHERE[stage + 4]]))
    training.check_random(stage, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "stage", "precision"), [pytest.param("prefix", 2, "bf16", marks=pytest.mark.faults), ("lora", 3, "fp32")]
)
def test_two_ranks_killed_together_or_one_of_them_end_with_the_same_weights(
    regime: str, stage: int, precision: str, train: Callable[..., Training]
) -> None:
    training = train(regime, stage, precision, 2)
    training.check({"KILL_AT": "step | 5 | before"}, only=1)
    training.check({"KILL_AT": "step | 8 | after"}, only=0)
    training.check_random(stage, 2)


@pytest.mark.slow
def test_one_rank_that_is_asked_to_end_stops_all_with_a_checkpoint(train: Callable[..., Training]) -> None:
    """After the global step in which the others hear of it: 5, for which no checkpoint is scheduled."""
    training = train("prefix", 2, "bf16", 2)
    told = {"KILL_AT": "step | 4 | before", "KILL_WITH": str(int(signal.SIGTERM))}
    shutil.rmtree(training.folder / "killed" / "store" / "train", ignore_errors=True)
    assert training.ranks.run(training.again, training.folder, {1: told}) == [Interrupted.exit_code] * 2
    assert folder_of(training.again).steps() == [3, 5]
    assert training.ranks.run(training.again, training.folder) == [0, 0]
    assert final(training.again).state["resumed_from"] == [5]
    assert_same(final(training.again), training.expected)


@pytest.mark.slow
def test_a_rank_that_waits_for_a_hung_one_ends_after_the_time_out_and_can_be_started_again(
    train: Callable[..., Training],
) -> None:
    training = train("prefix", 2, "bf16", 2)
    shutil.rmtree(training.folder / "killed" / "store" / "train", ignore_errors=True)
    resources = training.again.resources.model_copy(update={"rank_timeout_seconds": 8})
    hung = {"KILL_AT": "step | 5 | before", "HANG": "25"}
    impatient = training.again.model_copy(update={"resources": resources})
    assert training.ranks.run(impatient, training.folder, {1: hung}) == [PlatformError.exit_code, 1]
    assert training.ranks.run(training.again, training.folder) == [0, 0]
    assert final(training.again).state["resumed_from"] == [3]
    assert_same(final(training.again), training.expected)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["join | 1 | before", "enter | 1 | before"])
def test_a_rank_that_waits_for_one_that_was_lost_before_the_first_global_step_ends_after_the_time_out(
    call: str, ranks: Ranks, make_job: MakeJob, tmp_path: Path
) -> None:
    """Before the ranks found each other, and before DeepSpeed's own process group stands, for which torch would wait
    thirty minutes."""
    job = make_job(tmp_path, CONFIG, {"zero_stage": 2, "num_ranks": 2, "rank_timeout_seconds": 8})
    for victim in (0, 1):
        statuses = ranks.run(job, tmp_path, {victim: {"KILL_AT": call}})
        assert statuses[victim] == KILLED and statuses[1 - victim] in (PlatformError.exit_code, 1)


@pytest.mark.faults
@pytest.mark.parametrize(("stage", "precision"), WAYS)
def test_killed_at_every_point_of_a_commit_and_around_the_border_it_ends_with_the_same_weights(
    stage: int, precision: str, train: Callable[..., Training]
) -> None:
    training = train("lora", stage, precision)
    _, _, third, last = commits(training)
    training.check(*map(at, sides(third, last)), *({"KILL_AT": call} for call in BORDER + ELSEWHERE))


@pytest.mark.faults
@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (3, "bf16")])
def test_killed_within_any_action_of_a_commit_it_ends_with_the_same_weights(
    stage: int, precision: str, train: Callable[..., Training]
) -> None:
    training = train("lora", stage, precision)
    within = [point for point in commits(training)[2] if point.side == "within"]
    assert within
    training.check(*map(at, within))


@pytest.mark.faults
@pytest.mark.parametrize(("regime", "num_ranks"), [("lora", 1), ("prefix", 2)])
@pytest.mark.parametrize(("stage", "precision"), WAYS)
def test_killed_at_many_random_times_it_ends_with_the_same_weights(
    regime: str, stage: int, precision: str, num_ranks: int, train: Callable[..., Training]
) -> None:
    train(regime, stage, precision, num_ranks).check_random(100 * num_ranks + stage, NUM_KILLS)


@pytest.mark.faults
@pytest.mark.parametrize(("stage", "precision"), WAYS)
def test_two_ranks_killed_around_the_border_together_or_one_of_them_end_with_the_same_weights(
    stage: int, precision: str, train: Callable[..., Training]
) -> None:
    training = train("lora", stage, precision, 2)
    for number, call in enumerate(BORDER):
        training.check({"KILL_AT": call}, only=(None, 0, 1)[(number + stage) % 3])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "lora"])
def test_ranks_and_stages_can_change_while_it_trains(
    kind: str, ranks: Ranks, make_job: MakeJob, tmp_path: Path
) -> None:
    """2 ranks under ZeRO-3, then 1 under ZeRO-1, then 2 under ZeRO-3 again. Without dropout, whose draws are each
    rank's own; the last global batch of an epoch leaves a rank with less."""
    regime = {**REGIMES[kind], **({"dropout": 0.0} if kind == "lora" else {})}
    config = {"mapper": {**MAPPER, "dropout": 0.0}, "regime": regime, "global_batch_images": 4}
    config |= {"checkpoint_every_steps": 3, "validate_every_steps": 6}
    undisturbed, moved = (
        make_job(tmp_path / name, config, {"num_ranks": 2, "zero_stage": 3}) for name in ("undisturbed", "moved")
    )
    assert ranks.run(undisturbed, tmp_path) == [0, 0]
    told = {"KILL_AT": "step | 8 | after"}
    on_one = moved.resources.model_copy(update={"num_ranks": 1, "zero_stage": 1})
    assert KILLED in ranks.run(moved, tmp_path, dict.fromkeys((0, 1), told))
    assert KILLED in ranks.run(moved.model_copy(update={"resources": on_one}), tmp_path, {0: told})
    assert ranks.run(moved, tmp_path) == [0, 0]
    assert len(final(moved).state["resumed_from"]) == 2
    for curve in ("loss", "val_loss", "grad_norm"):
        found, expected = (dict(final(job).state["history"]["curves"][curve]) for job in (moved, undisturbed))
        assert found == pytest.approx(expected, abs=1e-4)
