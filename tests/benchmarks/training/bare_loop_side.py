"""The least that must be done with the same packed batches: forward, backward, step. Batches are ready in memory.

Once under the same DeepSpeed engine at the same stage, once in plain torch. No curves, no all-reduce of losses, no look
at whether they are finite, no data, no checkpoints.
"""

from functools import cache
from typing import Any

import torch
from frostline_side import join_group_of_one, read_job, targets_by_step
from sides import serve
from steps import Marks

from training.data import GlobalBatch
from training.parameter_groups import parameter_groups
from training.phase import Position, enter
from training.schedule import phases_of
from training.setup import Prepared, prepare


def under_deepspeed(job: str, warm_up_steps: int) -> dict[str, Any]:
    prepared = prepared_of(job)
    phases = phases_of(prepared.job.config, prepared.order.num_steps)
    engine = enter(phases, prepared, Position(0)).engine.engine
    marks, losses = Marks(), []
    for batch in batches_of(job):
        for number, micro_batch in enumerate(batch.micro_batches):
            engine.set_gradient_accumulation_boundary(number == len(batch.micro_batches) - 1)
            total = engine(micro_batch.tensors).total
            engine.backward(total, scale_wrt_gas=False)
            losses.append(total.detach())
        engine.step()
        marks.mark()
    return {**marks.steady(targets_by_step(job), warm_up_steps), "losses": _by_step(job, losses)}


def in_plain_torch(job: str, warm_up_steps: int) -> dict[str, Any]:
    prepared = prepared_of(job)
    config, model = prepared.job.config, prepared.build_model()
    optimizer = torch.optim.AdamW(parameter_groups(model, config), betas=config.betas, fused=True)
    trained = list(model.trained().values())
    model.train()
    marks, losses = Marks(), []
    for batch in batches_of(job):
        for micro_batch in batch.micro_batches:
            total = model(micro_batch.tensors).total
            total.backward()
            losses.append(total.detach())
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.mark()
    return {**marks.steady(targets_by_step(job), warm_up_steps), "losses": _by_step(job, losses)}


@cache
def prepared_of(job: str) -> Prepared:
    asked = read_job(job)
    torch.set_num_threads(asked.resources.threads_per_rank)
    return prepare(asked, 0, 1)


@cache
def batches_of(job: str) -> list[GlobalBatch]:
    prepared = prepared_of(job)
    return [prepared.batcher.global_batch(prepared.order.batch(step)) for step in range(prepared.order.num_steps)]


def _by_step(job: str, losses: list[torch.Tensor]) -> list[float]:
    """Sums over the micro batches of each step."""
    found, waiting = [], iter(losses)
    for batch in batches_of(job):
        found.append(float(torch.stack([next(waiting) for _ in batch.micro_batches]).sum()))
    return found


if __name__ == "__main__":
    join_group_of_one()
    commands = {"under_deepspeed": under_deepspeed, "in_plain_torch": in_plain_torch}
    serve(commands, ("frostline", "torch", "deepspeed", "transformers", "numpy"))
