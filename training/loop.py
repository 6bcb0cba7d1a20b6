"""The loop that every rank runs, whoever launched it. Shapes: O objectives."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from infra.digests import digest_json
from infra.errors import DataError, IntegrityError, Interrupted
from training.config import TrainConfig
from training.data import GlobalBatch, global_batch, prefetched
from training.history import History
from training.job import Link, TrainJob
from training.language_model import frozen_digest
from training.objectives import objectives_of
from training.setup import Prepared, prepare
from training.zero import ZeroEngine, sweep_dead_buffers

if TYPE_CHECKING:
    from infra.tracking import TrainingRun


def learning_rate_at(config: TrainConfig, step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine to min_learning_rate_fraction of the peak. `step` counts from 0."""
    num_warmup = math.ceil(config.warmup_fraction * num_steps)
    if step < num_warmup:
        return config.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    floor = config.min_learning_rate_fraction
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def run_rank(job: TrainJob, link: Link) -> None:
    """Train to the end, from the newest checkpoint that verifies. Needs an initialised process group.

    Leaves a checkpoint of the last step whose state has `finished`. Raises Interrupted after a checkpoint when `link`
    says stop; DataError with example ids when a loss is not finite; IntegrityError when a frozen parameter changed."""
    torch.set_num_threads(job.resources.threads_per_rank)
    sweep_dead_buffers()
    prepared = prepare(job, distributed.get_rank(), distributed.get_world_size())
    loop = TrainLoop(job, prepared, link)
    status = "FAILED"
    try:
        loop.run()
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        raise
    finally:
        loop.close(status)


class TrainLoop:
    """One rank's training: engine, position and curves."""

    def __init__(self, job: TrainJob, prepared: Prepared, link: Link) -> None:
        self.config, self.prepared, self.link = job.config, prepared, link
        self.rank = prepared.ranks.rank
        self.objectives = objectives_of(job.config)
        self.num_steps = prepared.order.num_steps
        num_micro = prepared.ranks.num_micro_batches(job.config.global_batch_images)
        self.engine = ZeroEngine(
            prepared.model, job.config, job.resources.zero_stage, (job.resources.micro_batch_images, num_micro)
        )
        self.history = History.for_steps(self.num_steps)
        self.step = 0
        """Global steps done."""
        self.messages: list[str] = []
        self.resumed_from: list[int] = []
        self.seconds = 0.0
        self._resume()
        self.tracker = _open_tracker(job) if self.rank == 0 else None
        self.logged_step = 0

    def run(self) -> None:
        config = self.config
        self.link.report(self.step, self.num_steps, "")
        started = asked = time.perf_counter()
        spent = self.seconds
        for batch in prefetched(self.prepared.train_batch, self.step, self.num_steps):
            waited = time.perf_counter() - asked
            values, stop = self._train_step(batch)
            self.step += 1
            asked = time.perf_counter() if self.rank else self._record(batch, values, waited, asked)
            last = self.step == self.num_steps
            if self.prepared.validation and (self.step % config.validate_every_steps == 0 or last):
                self.history.add_point("val_loss", self.step, self._validation_loss())
            self.seconds = spent + time.perf_counter() - started
            if (self.step % config.checkpoint_every_steps == 0 or stop) and not last:
                self._save({})
            if stop and not last:
                raise Interrupted(
                    f"training was asked to stop; stopped after global step {self.step} of {self.num_steps} with a "
                    "checkpoint. Start again to go on from there."
                )
            asked = time.perf_counter()
        self._finish()

    def close(self, status: str) -> None:
        if self.tracker is not None:
            self.tracker.finish(status)

    def _train_step(self, batch: GlobalBatch) -> tuple[dict[str, float], bool]:
        """(loss and gradient norm, whether anybody asked to stop)."""
        torch.manual_seed(_seed(self.config.seed, self.step, self.rank))
        num_objectives = len(self.objectives)
        totals = torch.zeros(2 * num_objectives + 2, dtype=torch.float64, device=self.engine.device)
        finite = []
        for number, micro_batch in enumerate(batch.micro_batches):
            losses = self.engine(micro_batch.tensors.to(self.engine.device))
            self.engine.backward(losses.weighted_sum / (batch.weighted_targets or 1.0))
            totals[: 2 * num_objectives] += torch.cat([losses.weighted_sum_O, losses.weight_O])
            finite.append(losses.weighted_sum.detach().isfinite())
            if number < len(batch.micro_batches) - 1:
                self.engine.step(0.0, boundary=False)
        totals[-2] = (~torch.stack(finite)).sum()
        totals[-1] = self.link.stopping()
        distributed.all_reduce(totals)
        if totals[-2] > 0 or not totals.isfinite().all():
            self._raise_not_finite(batch, finite)
        learning_rate = learning_rate_at(self.config, self.step, self.num_steps)
        norm = self.engine.step(learning_rate)
        values = self._losses(totals, batch.weighted_targets)
        return {**values, "grad_norm": norm, "learning_rate": learning_rate}, bool(totals[-1] > 0)

    def _losses(self, totals: Tensor, weighted_targets: float) -> dict[str, float]:
        sums, weights = totals[: len(self.objectives)].tolist(), totals[len(self.objectives) : -2].tolist()
        by_task = {
            f"loss_{objective.name}": total / weight
            for objective, total, weight in zip(self.objectives, sums, weights, strict=True)
            if weight > 0
        }
        return {"loss": sum(sums) / (weighted_targets or 1.0), **by_task}

    def _record(self, batch: GlobalBatch, values: dict[str, float], waited: float, asked: float) -> float:
        now = time.perf_counter()
        seconds = now - asked
        speeds = {
            "target_tokens_per_second": batch.num_targets / seconds,
            "images_per_second": batch.num_images / seconds,
            "data_seconds": waited,
            "compute_seconds": seconds - waited,
        }
        self.history.add_step(self.step, {**values, **speeds})
        self.link.report(self.step, self.num_steps, f"loss {values['loss']:.3f}")
        return now

    def _validation_loss(self) -> float:
        """Weighted mean loss of a target token of the validation images."""
        self.engine.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.engine.device)
        ranks, features = self.prepared.ranks, self.prepared.features
        with torch.no_grad():
            for images in self.prepared.validation_batches():
                batch = global_batch(images, ranks, features, self.config.global_batch_images)
                for micro_batch in batch.micro_batches:
                    losses = self.engine(micro_batch.tensors.to(self.engine.device))
                    totals += torch.stack([losses.weighted_sum, losses.weight_O.sum()])
        self.engine.model.train()
        distributed.all_reduce(totals)
        return float(totals[0] / totals[1].clamp(min=1e-9))

    def _raise_not_finite(self, batch: GlobalBatch, finite: list[Tensor]) -> None:
        pairs = zip(batch.micro_batches, finite, strict=True)
        own = [example for micro_batch, good in pairs if not good for example in micro_batch.example_ids]
        found: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(found, own)
        ids = sorted({example for part in found for example in part})
        raise DataError(
            f"global step {self.step + 1}: the loss is not finite; expected a number. The micro batches at fault hold "
            f"the examples {', '.join(ids[:64])}{' …' if len(ids) > 64 else ''}. Look at their features and targets, "
            "or lower training.learning_rate."
        )

    def _resume(self) -> None:
        """Rank 0 chooses the checkpoint; all ranks load that one."""
        checkpoint, self.messages = self.prepared.checkpoints.newest() if self.rank == 0 else (None, [])
        chosen = [checkpoint.step if checkpoint else None]
        distributed.broadcast_object_list(chosen)
        if chosen[0] is None:
            return
        checkpoint = checkpoint or self.prepared.checkpoints.load(chosen[0])
        state = checkpoint.state
        first = self.prepared.train_batch(0).micro_batches[0].tensors.to(self.engine.device)
        self.engine.restore(checkpoint.tensors["trainables"], checkpoint.tensors["optimizer"], checkpoint.step, first)
        self.step = checkpoint.step
        self.history = History.from_state(state["history"])
        self.resumed_from = [*state["resumed_from"], checkpoint.step]
        self.messages = [*state["messages"], *self.messages]
        self.seconds = state["seconds"]

    def _save(self, finished: dict[str, Any]) -> None:
        """Commit a checkpoint. Every rank has to call it."""
        trainables, optimizer = self.engine.capture()
        if self.rank:
            return
        state = {
            "global_step": self.step,
            "epoch": self.step // self.prepared.order.steps_per_epoch,
            # Draws are reseeded at each global step from (seed, step, rank): there is no other generator state.
            "rng": {"seed": self.config.seed, "step": self.step, "num_ranks": self.prepared.ranks.num_ranks},
            "history": self.history.state(),
            "resumed_from": self.resumed_from,
            "messages": self.messages,
            "seconds": round(self.seconds, 3),
            "finished": finished,
        }
        self.prepared.checkpoints.save(self.step, {"trainables": trainables, "optimizer": optimizer}, state)
        if self.tracker is not None:
            self.tracker.log_points(self.history.points_after(self.logged_step))
            self.logged_step = self.step

    def _finish(self) -> None:
        facts = dict(self.prepared.facts)
        if self.rank == 0 or self.engine.stage == 3:
            digest = frozen_digest(self.engine.model, self.engine.whole)
            if self.rank == 0 and digest != facts["frozen_digest"]:
                raise IntegrityError(
                    f"the frozen parameters have digest {digest[:12]}… after training; expected "
                    f"{str(facts['frozen_digest'])[:12]}… as before. Nothing is exported. Start again on sound memory."
                )
        self._save(facts)


def _seed(seed: int, step: int, rank: int) -> int:
    return int(digest_json([seed, step, rank])[:15], 16)


def _open_tracker(job: TrainJob) -> TrainingRun | None:
    if job.tracking is None:
        return None
    from infra.tracking import open_run

    run = open_run(job.tracking.uri, job.tracking.experiment, job.fingerprint, job.tracking.tags)
    sections = {"training": job.config.model_dump(mode="json"), "resources": job.resources.model_dump(mode="json")}
    run.log_params({f"{name}.{key}": value for name, fields in sections.items() for key, value in fields.items()})
    return run
