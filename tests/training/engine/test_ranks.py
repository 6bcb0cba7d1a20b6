"""Several ranks: through torchrun and through Ray Train."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import final, folder_of, saved
from watching import Watching

from infra.errors import DataError, Interrupted
from infra.progress import Silent
from training.job import TrainJob
from training.loop import run_rank

REPOSITORY = Path(__file__).resolve().parents[3]
RAGGED = {"global_batch_images": 5}
LONG = {"epochs": 40, "learning_rate": 1e-3, "checkpoint_every_steps": 10, "validate_every_steps": 1000}


def environment() -> dict[str, str]:
    bin_dir = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
    }


def torchrun(folder: Path, num_ranks: int, *program: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *program]
    with (folder / "torchrun.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)


def losses(job: TrainJob) -> list[float]:
    return [value for _, value in final(job).state["history"]["curves"]["loss"]]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, make_job: Callable[..., TrainJob]) -> dict[str, TrainJob]:
    """Trainings that two ranks have finished: one per stage, and the long one."""
    folder = tmp_path_factory.mktemp("two_ranks")
    resources = {"num_ranks": 2, "micro_batch_tokens": 32}
    # Stage 3 last: DeepSpeed then replaces torch's linear function in the whole process, which changes low bits.
    jobs = {"long": make_job(folder / "long", LONG, {"num_ranks": 2})}
    for stage in range(4):
        jobs[f"stage {stage}"] = make_job(folder / str(stage), RAGGED, {**resources, "zero_stage": stage})
    paths = [saved(job, folder / f"{name}.json") for name, job in jobs.items()]
    program = str(REPOSITORY / "tests" / "support" / "run_jobs.py")
    assert torchrun(folder, 2, program, *paths).wait(240) == 0, (folder / "torchrun.log").read_text()[-3000:]
    return jobs


@pytest.fixture(scope="module")
def one_rank_losses(
    one_rank: None, tmp_path_factory: pytest.TempPathFactory, make_job: Callable[..., TrainJob]
) -> list[float]:
    job = make_job(tmp_path_factory.mktemp("one_rank"), RAGGED, {"zero_stage": 0})
    run_rank(job, Watching())
    return losses(job)


@pytest.mark.parametrize("stage", range(4))
def test_two_ranks_of_any_stage_have_the_losses_of_one(
    stage: int, two_ranks: dict[str, TrainJob], one_rank_losses: list[float]
) -> None:
    """21 train images in batches of 5: the last batch of an epoch leaves a rank without an image."""
    assert losses(two_ranks[f"stage {stage}"]) == pytest.approx(one_rank_losses, abs=1e-4)


@pytest.mark.usefixtures("one_rank")
def test_a_stopped_training_continues_under_another_stage_and_number_of_ranks(
    tmp_path: Path, make_job: Callable[..., TrainJob], two_ranks: dict[str, TrainJob]
) -> None:
    job = make_job(tmp_path, LONG, {"zero_stage": 2, "num_ranks": 2})
    process = torchrun(tmp_path, 2, "-m", "training.train", saved(job, tmp_path / "job.json"))
    wait_for_checkpoint(job)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    stopped_at = folder_of(job).steps()[-1]
    assert not folder_of(job).load(stopped_at).state["finished"]
    resources = {"zero_stage": 3, "num_ranks": 1, "micro_batch_tokens": 128}
    run_rank(job.model_copy(update={"resources": job.resources.model_copy(update=resources)}), Watching())
    assert final(job).state["resumed_from"] == [stopped_at]
    assert losses(job) == pytest.approx(losses(two_ranks["long"]), abs=1e-4)


def wait_for_checkpoint(job: TrainJob, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not folder_of(job).steps():
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    os.environ.update(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=str(REPOSITORY))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 * 2**20)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("number", "seconds", "told"),
    [
        (signal.SIGKILL, 60, "rank [01] died"),
        pytest.param(signal.SIGTERM, 60, "rank [01] died", marks=pytest.mark.faults),
        pytest.param(
            signal.SIGSTOP, 15, r"rank [01] was not heard of for \d+ s; rank [01] said: .*[Tt]imed out",
            marks=pytest.mark.faults,
        ),
    ],
)  # fmt: skip
def test_a_lost_rank_is_replaced_and_the_weights_are_those_of_an_undisturbed_torchrun(
    number: int, seconds: int, told: str, tmp_path: Path, make_job: Callable[..., TrainJob],
    two_ranks: dict[str, TrainJob],
) -> None:  # fmt: skip
    """Killed, hung or asked to end: the training goes on without anybody's help, and says what happened."""
    from training.launch import launch

    job = make_job(tmp_path, LONG, {"num_ranks": 2, "rank_timeout_seconds": seconds})
    progress = Notes()
    thread = threading.Thread(target=launch, args=(job, progress))
    thread.start()
    wait_for_checkpoint(job)
    lost = rank_process()
    os.kill(lost, number)
    thread.join(300)
    assert not thread.is_alive()
    assert len(final(job).state["resumed_from"]) == 1
    (message,) = final(job).state["messages"]
    assert re.match(f"the ranks were started again: {told}", message)
    assert message.removeprefix("the ranks were started again: ") in " ".join(progress.notes)
    assert not Path(f"/proc/{lost}").exists(), "the lost rank still holds its memory"
    for name, value in final(two_ranks["long"]).tensors["trainables"].items():
        assert torch.equal(value, final(job).tensors["trainables"][name]), name


class Notes(Silent):
    """Keeps what an operator would read."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def advance(self, label: str, amount: int = 1, note: str = "") -> None:  # noqa: ARG002
        self.notes.append(note)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.usefixtures("ray_cluster")
def test_a_launcher_that_is_asked_to_end_leaves_a_checkpoint_from_which_the_next_one_goes_on(
    tmp_path: Path, make_job: Callable[..., TrainJob], two_ranks: dict[str, TrainJob]
) -> None:
    from training.launch import launch

    job = make_job(tmp_path, LONG, {"num_ranks": 2})
    program = Path(__file__).resolve().parents[2] / "support" / "launch_program.py"
    with (tmp_path / "launch.log").open("wb") as log:
        command = [sys.executable, str(program), saved(job, tmp_path / "job.json")]
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    wait_for_checkpoint(job)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == Interrupted.exit_code, (tmp_path / "launch.log").read_text()[-3000:]
    stopped_at = folder_of(job).steps()[-1]
    assert f"stopped after global step {stopped_at} of 120 with a checkpoint" in (tmp_path / "launch.log").read_text()
    launch(job, Silent())
    assert final(job).state["resumed_from"] == [stopped_at]
    for name, value in final(two_ranks["long"]).tensors["trainables"].items():
        assert torch.equal(value, final(job).tensors["trainables"][name]), name


def rank_process() -> int:
    """A process of this test's own Ray cluster that holds a rank."""
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path()).name.encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                continue
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if session in Path(f"/proc/{parent}/cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no rank is running")


@pytest.mark.usefixtures("ray_cluster")
def test_a_failure_in_a_rank_is_raised_by_the_launcher_as_it_is(
    tmp_path: Path, make_job: Callable[..., TrainJob]
) -> None:
    from training.launch import launch

    job = make_job(tmp_path, {"objectives": {"classify": {}}}, {"num_ranks": 2, "max_failures": 0})
    with pytest.raises(DataError, match="no example of a task that is trained"):
        launch(job, Silent())


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("stands", [True, False])
def test_an_error_under_a_process_group_that_was_taken_away_is_not_told_as_the_rank_s_own(
    stands: bool, tmp_path: Path, make_job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told as its own, it would end the training for good, where another rank was only lost."""
    import ray

    from training import launch
    from training.relay import Relay

    def fails(*_: object) -> None:
        raise ValueError("Default process group has not been initialized")

    relay = ray.remote(num_cpus=0)(Relay).remote()
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    monkeypatch.setattr("training.loop.run_rank", fails)
    monkeypatch.setattr(launch, "group_stands", lambda: stands)
    with pytest.raises(ValueError, match="has not been initialized"):
        launch._ray_rank({"job": make_job(tmp_path, {}, {"num_ranks": 2}).model_dump_json(), "relay": relay})
    assert (ray.get(relay.failure.remote()) is not None) == stands
