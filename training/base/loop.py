"""A plain supervised loop whose state is a flat dictionary of tensors, so that it resumes to the bit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from training.base.config import ScheduleConfig

_MODULE = "module."
_OPTIMIZER = "optimizer."


class SupervisedProblem(Protocol):
    """What is trained, on what. `loss` is a function of the module and the global step alone."""

    @property
    def schedule(self) -> ScheduleConfig: ...

    def build(self) -> nn.Module: ...

    def loss(self, module: nn.Module, global_step: int) -> Tensor: ...

    def export(self, module: nn.Module, folder: Path) -> None: ...


def run_supervised(
    problem: SupervisedProblem,
    *,
    resume_state: dict[str, Tensor] | None,
    start_step: int,
    save_every_steps: int,
    save: Callable[[int, dict[str, Tensor]], None],
    report: Callable[[int, float], None],
) -> nn.Module:
    """Train from `start_step` (the number of steps done) to the end of the schedule.

    `save` gets the number of steps done and the state after them; `report` the same and the loss."""
    schedule = problem.schedule
    module = problem.build().train()
    optimizer = build_optimizer(module, schedule)
    if resume_state is not None:
        restore_state(module, optimizer, resume_state)
    for step in range(start_step, schedule.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(schedule, step)
        loss = problem.loss(module, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(module.parameters(), schedule.clip_norm)
        optimizer.step()
        report(step + 1, loss.item())
        if (step + 1) % save_every_steps == 0 and step + 1 < schedule.num_steps:
            save(step + 1, capture_state(module, optimizer))
    return module.eval()


def learning_rate_at(schedule: ScheduleConfig, step: int) -> float:
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.num_steps - schedule.warmup_steps)
    return schedule.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(module: nn.Module, schedule: ScheduleConfig) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))


def capture_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all parameters, buffers and optimizer moments."""
    state = {_MODULE + name: value.clone() for name, value in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            state[f"{_OPTIMIZER}{index}.{name}"] = value.clone()
    # Tied weights appear under two names; safetensors wants separate memory, which clone() gives.
    return state


def restore_state(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    module.load_state_dict({name.removeprefix(_MODULE): v for name, v in state.items() if name.startswith(_MODULE)})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith(_OPTIMIZER):
            index, name = key.removeprefix(_OPTIMIZER).split(".", 1)
            moments.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
