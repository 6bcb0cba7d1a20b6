"""Starting ranks: under Ray Train, which restarts a group that lost a rank, or inside torchrun's processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlparse

from infra import errors
from infra.errors import FrostlineError, Interrupted, PlatformError
from infra.progress import Progress
from infra.ray import check_room, worker_environment
from infra.store import open_store
from training.checkpoints import CheckpointFolder
from training.job import TrainJob, checkpoint_prefix
from training.relay import POLL_SECONDS, Relay, RelayLink, last_line, told_of_losses

LABEL = "train"
HEALTH_CHECK_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"


def launch(job: TrainJob, progress: Progress) -> None:
    """Train to the end on `job.resources.num_ranks` ranks of the connected Ray cluster.

    SIGTERM and SIGINT of this process make the ranks commit a checkpoint; then Interrupted is raised. Raises what
    a rank raised, or PlatformError when ranks were lost more than `max_failures` times."""
    import ray

    resources = job.resources
    per_rank = {"CPU": resources.threads_per_rank, "GPU": resources.gpus_per_rank}
    check_room("ranks", resources.num_ranks, per_rank)
    steps = CheckpointFolder(open_store(job.store_uri), checkpoint_prefix(job.fingerprint), 1).steps()
    shown = max(steps, default=0)
    relay = ray.remote(num_cpus=0)(Relay).remote()
    outcome: list[BaseException | None] = []
    fitting = threading.Thread(target=lambda: outcome.append(_fit(job, relay)), name="ray-train", daemon=True)
    started, losses = False, list[str]()
    progress.start(LABEL, 0, "steps")  # how many there are, the ranks will say
    with _asked_to_stop() as asked:
        fitting.start()
        while fitting.is_alive():
            fitting.join(POLL_SECONDS)
            num_losses = len(losses)
            position, losses = ray.get(relay.poll.remote(asked.is_set()))
            for loss in losses[num_losses:]:
                progress.advance(LABEL, 0, f"the ranks ended: {loss}")
            if position is None:
                continue
            step, num_steps, note = position
            if not started:
                progress.start(LABEL, num_steps, "steps", done=shown)
                started = True
            if step > shown:
                progress.advance(LABEL, step - shown, note)
                shown = step
    failure = ray.get(relay.failure.remote())
    ray.kill(relay)
    progress.finish(LABEL)
    if failure is not None:
        raise _error_of(*failure)
    if outcome and outcome[0] is not None:
        raise _ranks_lost(job, losses or [last_line(outcome[0])])


def _fit(job: TrainJob, relay: Any) -> BaseException | None:
    """Run Ray Train to its end; what it raised, or None."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = job.resources
    on_gpus = resources.gpus_per_rank > 0
    environment = worker_environment(resources.threads_per_rank, resources.gpus_per_rank)
    # Ray's own ten minutes would be what a hung rank costs where no other rank waits for it.
    os.environ[HEALTH_CHECK_VARIABLE] = str(resources.rank_timeout_seconds)
    trainer = TorchTrainer(
        _ray_rank,
        train_loop_config={"job": job.model_dump_json(), "relay": relay},
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo", timeout_s=resources.rank_timeout_seconds),
        scaling_config=ScalingConfig(
            num_workers=resources.num_ranks,
            use_gpu=on_gpus,
            resources_per_worker={"CPU": resources.threads_per_rank, **({"GPU": 1} if on_gpus else {})},
        ),
        run_config=RunConfig(
            name=f"{job.fingerprint[:12]}-{int(time.time())}",
            storage_path=_ray_folder(job),
            failure_config=FailureConfig(max_failures=resources.max_failures),
            worker_runtime_env={"env_vars": environment},
            callbacks=[told_of_losses(relay)],
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # of Ray's many classes; the launcher raises it, on its own thread
        return error
    return None


def _ray_rank(settings: dict[str, Any]) -> None:
    """What Ray Train runs in each rank, again after a rank died: then it goes on from the newest checkpoint."""
    import ray
    import ray.train

    from training.loop import run_rank

    relay = settings["relay"]
    if ray.get(relay.failure.remote()) is not None:
        return  # this group was started again for a failure that is final
    link = RelayLink(relay, ray.train.get_context().get_world_rank())
    try:
        losses = [f"the ranks were started again: {loss}" for loss in ray.get(relay.losses.remote())]
        run_rank(TrainJob.model_validate_json(settings["job"]), link, losses)
    except FrostlineError as error:
        if error.retryable:
            raise
        ray.get(relay.fail.remote(type(error).__name__, str(error)))
        if not isinstance(error, Interrupted):
            raise  # the other ranks may be waiting for this one
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        if group_stands():  # of our own making or an engine's: started again, the ranks would meet it again
            ray.get(relay.fail.remote(FrostlineError.__name__, f"{type(error).__name__}: {error}"))
        raise
    finally:
        link.close()


def group_stands() -> bool:
    """Where another rank was lost, Ray Train takes the process group away, also from under a global step."""
    from torch import distributed

    return distributed.is_initialized()


def run_from_environment(job: TrainJob) -> None:
    """One rank of torchrun, by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. SIGTERM stops at the next global step."""
    import torch
    from torch import distributed

    from training.loop import run_rank

    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise errors.ConfigError(
            f"{', '.join(missing)} not set in the environment; expected torchrun's variables. "
            "Start with `torchrun --nproc-per-node N -m training.train JOB.json`."
        )
    on_gpus = job.resources.gpus_per_rank > 0
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    timeout = timedelta(seconds=job.resources.rank_timeout_seconds)
    try:
        distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=timeout)
        with _asked_to_stop() as asked:
            run_rank(job, _EventLink(asked))
    except RuntimeError as error:  # of gloo, NCCL and their store
        if not any(word in str(error).lower() for word in ("timed out", "timeout")):
            raise
        raise PlatformError(
            f"rank {os.environ['RANK']} waited {timeout.seconds} s for another rank ({last_line(error)}); expected all "
            "ranks in every global step. Start again to resume from the newest checkpoint; if a rank needs longer, "
            "raise rank_timeout_seconds."
        ) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


class _EventLink:
    def __init__(self, asked: threading.Event) -> None:
        self._asked = asked

    def report(self, *_: object) -> None:
        return

    def stopping(self) -> bool:
        return self._asked.is_set()


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the next acts as before. Off the main thread it stays unset."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(*_: object) -> None:
        asked.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()


def _ray_folder(job: TrainJob) -> str:
    """Where Ray Train keeps its own bookkeeping; every node has to see it. Checkpoints are not in there."""
    if urlparse(job.store_uri).scheme == "s3":
        return f"{job.store_uri.rstrip('/')}/train/ray"
    return str(job.cache_dir / "ray_train")


def _error_of(kind: str, message: str) -> FrostlineError:
    error: FrostlineError = getattr(errors, kind, FrostlineError)(message)
    return error


def _ranks_lost(job: TrainJob, losses: list[str]) -> PlatformError:
    resources = job.resources
    return PlatformError(
        f"the ranks of this training were lost {resources.max_failures + 1} times (the last: {losses[-1]}); expected "
        "them to finish. Checkpoints are kept: start again to resume. If memory ran out, lower micro_batch_tokens; if "
        f"a rank needs longer, raise rank_timeout_seconds ({resources.rank_timeout_seconds})."
    )
