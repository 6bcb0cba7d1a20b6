"""The loop that every rank runs, whoever launched it. Shapes: O objectives."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, distributed

from infra.digests import digest_json
from infra.errors import Interrupted
from training.checkpoint_writer import CheckpointWriter
from training.data import GlobalBatch, prefetched
from training.exporting import exported, steps_to_keep
from training.history import History
from training.job import Link, TrainJob, check_inputs
from training.memory_use import peak_memory_bytes
from training.objectives import objectives_of
from training.phase import Position, TrainedPhase, check_frozen, check_same_frozen, enter
from training.recording import Recorder
from training.schedule import learning_rate_factor, phases_of
from training.setup import Prepared, prepare
from training.skipped import Skipped
from training.stopping import Best
from training.stopwatch import Stopwatch
from training.zero import sweep_dead_buffers


def run_rank(job: TrainJob, link: Link, messages: Sequence[str] = ()) -> None:
    """Train to the end, from the newest checkpoint that verifies. Needs an initialised process group. `messages` are
    what an operator should read beside the loop's own.

    Leaves a checkpoint of the last step whose state has `finished`. Raises Interrupted after a checkpoint when `link`
    says stop; DataError with example ids when losses stay not finite; IntegrityError
    when a frozen parameter changed."""
    torch.set_num_threads(job.resources.threads_per_rank)
    sweep_dead_buffers()
    prepared = prepare(job, distributed.get_rank(), distributed.get_world_size())
    loop = TrainLoop(job, prepared, link, messages)
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
    """One rank's training: position, curves and the phase it is in."""

    def __init__(self, job: TrainJob, prepared: Prepared, link: Link, messages: Sequence[str]) -> None:
        self.job, self.config, self.prepared, self.link = job, job.config, prepared, link
        self.rank = prepared.batcher.ranks.rank
        self.objectives = objectives_of(job.config.objectives)
        self.num_steps = prepared.order.num_steps
        self.phases = phases_of(job.config, self.num_steps)
        self.writer = CheckpointWriter(prepared.checkpoints)
        self.recorder = Recorder(job, link, self.num_steps, self.rank)
        self.step = 0
        """Global steps done."""
        self.best = Best()
        self.num_updates = 0
        """Of the phase: its global steps less those left out."""
        self.skipped = Skipped()
        self.messages: list[str] = [*prepared.material.messages, *messages]
        self.resumed_from: list[int] = []
        self.finished = False
        """The checkpoint that was found is the last; ranks may be started again after it."""
        self.seconds = 0.0
        self.phase = self._resume()
        self.watch = Stopwatch(self.phase.engine.device)

    def run(self) -> None:
        self.recorder.begin(self.step)
        if not self.finished:
            self._train()
            self._finish()
        self.recorder.log(self.step)

    def close(self, status: str) -> None:
        self.writer.close()
        self.recorder.close(status)

    def _train(self) -> None:
        """The global steps that are left, or fewer where validation says so."""
        started, spent = time.perf_counter(), self.seconds
        ended = False
        while self.step < self.num_steps and not ended:
            if self.step == self.phase.last:
                check_frozen(self.phase)
                position = self.phase.leave(self.step)
                del self.phase  # or both phases' models would be in memory at once
                gc.collect()
                self.phase, self.num_updates = enter(self.phases, self.prepared, position), 0
            self.watch.seconds()
            for batch in prefetched(self._batch, self.step, self.phase.last):
                self.watch.mark("data")
                values, stop = self._train_step(batch)
                self.step += 1
                # Before the checkpoint, which carries the curves; its own seconds count for the next step.
                self.recorder.step(self.step, batch, values, self.watch.seconds())
                ended, is_best = self._validate()
                self.seconds = spent + time.perf_counter() - started
                last = ended or self.step == self.num_steps
                is_kept = is_best and self.config.stopping.export == "best"
                if not last and (stop or is_kept or self.step % self.config.checkpoint_every_steps == 0):
                    self._save({})
                if stop and not last:
                    self.writer.wait()
                    raise Interrupted(
                        f"training was asked to stop; stopped after global step {self.step} of {self.num_steps} with a "
                        "checkpoint. Start again to go on from there."
                    )
                if ended:
                    break

    def _batch(self, step: int) -> GlobalBatch:
        return self.prepared.batcher.global_batch(self.prepared.order.batch(step))

    def _train_step(self, batch: GlobalBatch) -> tuple[dict[str, float], bool]:
        """(losses, gradient norm and learning rate; whether anybody asked to stop)."""
        torch.manual_seed(_seed(self.config.seed, self.step, self.rank))
        engine, num_objectives = self.phase.engine, len(self.objectives)
        totals = torch.zeros(num_objectives + 2, dtype=torch.float64, device=engine.device)
        finite = []
        for number, micro_batch in enumerate(batch.micro_batches):
            boundary = number == len(batch.micro_batches) - 1
            losses = engine(micro_batch.tensors.to(engine.device))
            self.watch.mark("forward")
            engine.backward(losses.total, boundary)
            totals[:num_objectives] += losses.sum_O
            finite.append(losses.total.detach().isfinite())
            self.watch.mark("backward")
        totals[-2] = (~torch.stack(finite)).sum()
        totals[-1] = self.link.stopping()
        distributed.all_reduce(totals)
        found = totals.tolist()
        factor = learning_rate_factor(self.config, self.phase.phase, self.step)
        if found[-2] > 0 or not totals.isfinite().all():
            engine.skip()
            norm = math.inf
        else:
            norm = engine.step(factor)
        self.watch.mark("optimizer")
        if not math.isfinite(norm):
            self._leave_out(batch, finite, found[-2] > 0)
            return {}, found[-1] > 0
        self.skipped.num_in_a_row = 0
        self.num_updates += 1
        rate = self.config.learning_rate * factor
        return {**self._losses(found, batch.weight_O), "grad_norm": norm, "learning_rate": rate}, found[-1] > 0

    def _losses(self, sums: list[float], weight_O: tuple[float, ...], prefix: str = "") -> dict[str, float]:
        """The loss, and each objective's own mean where there are several."""
        means = {
            objective.name: total / weight
            for objective, total, weight in zip(self.objectives, sums, weight_O, strict=False)
            if weight > 0
        }
        weights = {objective.name: objective.weight for objective in self.objectives}
        by_objective = {f"{prefix}loss_{name}": mean for name, mean in means.items()}
        return {f"{prefix}loss": sum(weights[name] * mean for name, mean in means.items()), **by_objective}

    def _validate(self) -> tuple[bool, bool]:
        """(whether training ends here, whether this validation is the best so far)."""
        last = self.step == self.num_steps
        if not self.prepared.validation or not (self.step % self.config.validate_every_steps == 0 or last):
            return False, False
        found = self._validation_losses()
        values = {name: value for name, value in found.items() if math.isfinite(value)}
        if len(values) < len(found):
            self.messages.append(f"validation after global step {self.step}: a loss is not finite; it is left out")
        self.recorder.validation(self.step, values)
        self.watch.mark("validation")
        if self.phase.last < self.num_steps:
            return False, False  # what the mapper alone has learnt is no whole model
        is_best = self.best.see(self.config.stopping, self.step, values)
        ended = self.best.ends(self.config.stopping)
        if ended:
            self.messages.append(
                f"ended after global step {self.step} of {self.num_steps}: {self.config.stopping.metric} was no better "
                f"for {self.best.num_since} validations"
            )
        return ended, is_best

    def _validation_losses(self) -> dict[str, float]:
        """Weighted means over the validation images."""
        engine = self.phase.engine
        engine.model.eval()
        totals = torch.zeros(2, len(self.objectives), dtype=torch.float64, device=engine.device)
        with torch.no_grad():
            for images in self.prepared.validation_batches():
                for micro_batch in self.prepared.batcher.global_batch(images).micro_batches:
                    losses = engine(micro_batch.tensors.to(engine.device))
                    totals += torch.stack([losses.sum_O, losses.weight_O])
        engine.model.train()
        distributed.all_reduce(totals)
        sums, weights = totals.tolist()
        return self._losses(sums, tuple(weights), "val_")

    def _leave_out(self, batch: GlobalBatch, finite: list[Tensor], losses_failed: bool) -> None:
        """Tell of the examples at fault, or end. Where only a gradient failed, it may be any micro batch's."""
        pairs = zip(batch.micro_batches, finite, strict=True)
        at_fault = [micro_batch for micro_batch, is_finite in pairs if not (is_finite and losses_failed)]
        ids = [example for micro_batch in at_fault for example in micro_batch.example_ids]
        self.messages += self.skipped.count(self.step + 1, ids, self.config.max_skipped_steps)

    def _resume(self) -> TrainedPhase:
        """Rank 0 chooses the checkpoint; all ranks load that one."""
        checkpoint, skipped = self.prepared.checkpoints.newest() if self.rank == 0 else (None, [])
        self.messages += skipped
        chosen = [checkpoint.step if checkpoint else None]
        distributed.broadcast_object_list(chosen)
        if chosen[0] is None:
            return enter(self.phases, self.prepared, Position(0))
        checkpoint = checkpoint or self.prepared.checkpoints.load(chosen[0])
        state = checkpoint.state
        check_inputs(self.job, checkpoint.step, state["inputs"])
        self.step = checkpoint.step
        self.recorder.history = History.from_state(state["history"])
        self.best = Best.from_state(state["best"])
        self.skipped = Skipped(**state["skipped"])
        self.finished = bool(state["finished"])
        self.resumed_from = [*state["resumed_from"], checkpoint.step]
        self.messages = [*state["messages"], *(told for told in self.messages if told not in state["messages"])]
        self.seconds = state["seconds"]
        self.num_updates = state["num_updates"]
        tensors = checkpoint.tensors
        position = Position(self.step, self.num_updates, tensors["trainables"], tensors["optimizer"])
        phase = enter(self.phases, self.prepared, position)
        if self.rank == 0 and self.step > phase.phase.first:
            check_same_frozen(phase, checkpoint.step, state["frozen_digest"])
        self.num_updates = 0 if self.step == phase.phase.first else self.num_updates
        return phase

    def _save(self, finished: dict[str, Any]) -> None:
        """Have a checkpoint committed in the background; where training has finished, with what is exported. Every
        rank has to call it."""
        self.writer.wait()  # first, so that no two checkpoints are in memory
        trainables, optimizer = self.phase.engine.capture(keep=self.rank == 0)
        if self.rank == 0:
            tensors = {"trainables": trainables, "optimizer": optimizer}
            if finished:
                last = (self.step, trainables)
                tensors["export"], told = exported(self.config, self.best.step, self.prepared.checkpoints, last)
                self.messages += told
            state = {
                "global_step": self.step,
                "inputs": self.job.inputs,
                # Draws are reseeded at each global step from (seed, step, rank): there is no generator state.
                "history": self.recorder.history.state(),
                "best": self.best.state(),
                "frozen_digest": self.phase.facts["frozen_digest"],
                "num_updates": self.num_updates,
                "skipped": asdict(self.skipped),
                "resumed_from": self.resumed_from,
                "messages": self.messages,
                "seconds": round(self.seconds, 3),
                "finished": finished,
            }
            self.writer.save(self.step, tensors, state, steps_to_keep(self.config, self.step, self.best.step))
        self.watch.mark("checkpoint")

    def _finish(self) -> None:
        """A last checkpoint that holds what is exported."""
        check_frozen(self.phase)
        memory: list[int] = [0] * distributed.get_world_size()
        distributed.all_gather_object(memory, peak_memory_bytes(self.phase.engine.device))
        facts = {**self.prepared.facts, **self.phase.facts, "peak_memory_bytes_by_rank": memory}
        facts["answer_space"] = self.prepared.material.space.model_dump(mode="json")
        self._save(facts)
        self.writer.wait()


def _seed(seed: int, step: int, rank: int) -> int:
    return int(digest_json([seed, step, rank])[:15], 16)
