"""Several ranks: through torchrun and through Ray Train."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from infra.errors import DataError
from infra.progress import Silent
from infra.store import open_store
from training.checkpoints import Checkpoint, CheckpointFolder
from training.job import TrainJob, checkpoint_prefix

REPOSITORY = Path(__file__).resolve().parents[3]
LONG = {"epochs": 40, "learning_rate": 1e-3, "checkpoint_every_steps": 10, "validate_every_steps": 1000}


def environment() -> dict[str, str]:
    bin_dir = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
    }


def torchrun(job: TrainJob, folder: Path) -> "subprocess.Popen[bytes]":
    path = folder / "job.json"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(job.resources.num_ranks)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "training.train", str(path)]
    with (folder / "torchrun.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)


def folder_of(job: TrainJob) -> CheckpointFolder:
    return CheckpointFolder(open_store(job.store_uri), checkpoint_prefix(job.fingerprint), job.config.keep_checkpoints)


def final(job: TrainJob) -> Checkpoint:
    checkpoint, skipped = folder_of(job).newest()
    assert checkpoint is not None and checkpoint.state["finished"] and not skipped
    return checkpoint


def losses(job: TrainJob) -> list[float]:
    return [value for _, value in final(job).state["history"]["curves"]["loss"]]


@pytest.fixture(scope="module")
def one_rank_losses(tmp_path_factory: pytest.TempPathFactory, make_job: Callable[..., TrainJob]) -> list[float]:
    folder = tmp_path_factory.mktemp("one_rank")
    job = make_job(folder, {"global_batch_images": 5}, {"zero_stage": 0})
    assert torchrun(job, folder).wait(120) == 0, (folder / "torchrun.log").read_text()[-3000:]
    return losses(job)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_of_any_stage_have_the_losses_of_one(
    stage: int, tmp_path: Path, make_job: Callable[..., TrainJob], one_rank_losses: list[float]
) -> None:
    """21 train images in batches of 5: the last batch of an epoch leaves a rank without an image."""
    job = make_job(tmp_path, {"global_batch_images": 5}, {"zero_stage": stage, "num_ranks": 2, "micro_batch_images": 2})
    assert torchrun(job, tmp_path).wait(120) == 0, (tmp_path / "torchrun.log").read_text()[-3000:]
    assert losses(job) == pytest.approx(one_rank_losses, abs=1e-4)


def test_a_stopped_training_continues_under_another_stage_and_number_of_ranks(
    tmp_path: Path, make_job: Callable[..., TrainJob]
) -> None:
    config = {**LONG, "epochs": 150}
    whole = make_job(tmp_path / "whole", config, {"zero_stage": 2, "num_ranks": 2})
    assert torchrun(whole, tmp_path / "whole").wait(120) == 0
    job = make_job(tmp_path / "cut", config, {"zero_stage": 2, "num_ranks": 2})
    process = torchrun(job, tmp_path / "cut")
    wait_for_checkpoint(job)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    stopped_at = folder_of(job).steps()[-1]
    assert not folder_of(job).load(stopped_at).state["finished"]
    resources = {"zero_stage": 3, "num_ranks": 1, "micro_batch_images": 8}
    other = job.model_copy(update={"resources": job.resources.model_copy(update=resources)})
    assert torchrun(other, tmp_path / "cut").wait(120) == 0
    assert final(job).state["resumed_from"] == [stopped_at]
    assert losses(job) == pytest.approx(losses(whole), abs=1e-4)


def wait_for_checkpoint(job: TrainJob, seconds: float = 90) -> None:
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


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_rank_is_replaced_and_the_weights_are_the_same(
    tmp_path: Path, make_job: Callable[..., TrainJob]
) -> None:
    from training.launch import launch

    config = {**LONG, "epochs": 150}
    undisturbed = make_job(tmp_path / "undisturbed", config, {"num_ranks": 2})
    launch(undisturbed, Silent())
    job = make_job(tmp_path / "killed", config, {"num_ranks": 2})
    thread = threading.Thread(target=launch, args=(job, Silent()))
    thread.start()
    wait_for_checkpoint(job)
    os.kill(rank_process(), signal.SIGKILL)
    thread.join(120)
    assert not thread.is_alive()
    assert len(final(job).state["resumed_from"]) == 1
    for name, value in final(undisturbed).tensors["trainables"].items():
        assert torch.equal(value, final(job).tensors["trainables"][name]), name


def rank_process() -> int:
    """A process of this test's own Ray cluster that holds a rank."""
    import ray

    (node,) = ray.nodes()
    session = Path(ray._private.worker._global_node.get_session_dir_path()).name
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            if b"RayTrainWorker" in title and session.encode() in (folder / "environ").read_bytes() + title:
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no rank of {session} on {node['NodeID']}")


@pytest.mark.usefixtures("ray_cluster")
def test_a_failure_in_a_rank_is_raised_by_the_launcher_as_it_is(
    tmp_path: Path, make_job: Callable[..., TrainJob]
) -> None:
    from training.launch import launch

    job = make_job(tmp_path, {"prompts": {"poem": "poem:"}, "task_weights": {"poem": 1.0}}, {"num_ranks": 2})
    with pytest.raises(DataError, match="no example of a task that is trained"):
        launch(job, Silent())
