"""A model of the loop with sizes that no number of ranks divides, and what the tests ask of its engine.

As a program under torchrun (`tiny_engine.py FOLDER`) every rank runs `findings` on each stage and writes them.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from infra.settings import TrainResources
from training.config import TrainConfig
from training.losses import Losses
from training.zero import ZeroEngine

CONFIG = {
    "mapper": {"kind": "linear", "prefix_tokens": 1},
    "regime": {"kind": "full", "learning_rate": 1e-3, "weight_decay": 0.5},
    "objectives": {"caption": {}},
    "global_batch_images": 12,
    "epochs": 1,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "clip_norm": 0.5,
}


class TinyBatch(NamedTuple):
    inputs_BI: Tensor
    targets_BO: Tensor
    scale: float = 1.0


class TinyModel(nn.Module):
    """`mapper` and `temperature` are new, `lm` is on the language side, `frozen` is not trained."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.mapper = nn.Linear(3, 5)
            self.lm = nn.Linear(5, 7)
            self.frozen = nn.Linear(7, 3).requires_grad_(False)
            self.temperature = nn.Parameter(torch.tensor([1.0]))

    def forward(self, batch: TinyBatch) -> Losses:
        outputs_BO = self.frozen(torch.tanh(self.lm(self.mapper(batch.inputs_BI)))) * self.temperature
        total = (outputs_BO - batch.targets_BO).square().sum() / CONFIG["global_batch_images"] * batch.scale
        return Losses(total, total.detach()[None], torch.ones(1))


def global_batch(number: int) -> TinyBatch:
    draw = torch.Generator().manual_seed(number)
    return TinyBatch(torch.randn(12, 3, generator=draw), 5 * torch.randn(12, 3, generator=draw))


def engine_of(zero_stage: int, **resources: Any) -> ZeroEngine:
    told = {"num_ranks": 1, "threads_per_rank": 1, "micro_batch_tokens": 1, "zero_stage": zero_stage, **resources}
    return ZeroEngine(TinyModel(), TrainConfig.model_validate(CONFIG), TrainResources.model_validate(told))


def backward(engine: ZeroEngine, number: int, sizes: tuple[int, ...] = (12,), scale: float = 1.0) -> None:
    """A global batch, shared out over the ranks and then cut into micro batches of these sizes."""
    rank, num_ranks = distributed.get_rank(), distributed.get_world_size()
    inputs_BI, targets_BO, _ = global_batch(number)
    start = 0
    for place, size in enumerate(sizes):
        rows = slice(start + rank, start + size, num_ranks)
        start += size
        last = place == len(sizes) - 1
        losses = engine(TinyBatch(inputs_BI[rows], targets_BO[rows], scale if last else 1.0))
        engine.backward(losses.total, boundary=last)


def update(engine: ZeroEngine, number: int, sizes: tuple[int, ...] = (12,), factor: float = 1.0) -> float:
    backward(engine, number, sizes)
    return engine.step(factor)


def states(engine: ZeroEngine) -> dict[str, Tensor]:
    parameters, moments = engine.capture()
    counts = {float(state["step"]) for state in engine._inner_optimizer().state.values()}
    assert len(counts) == 1
    return {**parameters, **moments, "num_updates": torch.tensor(counts.pop())}


def started(zero_stage: int, **resources: Any) -> ZeroEngine:
    """After two updates, one of them of two micro batches."""
    engine = engine_of(zero_stage, **resources)
    update(engine, 0, (5, 7))
    update(engine, 1)
    return engine


def findings(zero_stage: int, **resources: Any) -> dict[str, dict[str, Tensor]]:
    """States after the same three updates in different ways."""
    found = {}
    engine = engine_of(zero_stage, **resources)
    norms = [update(engine, number) for number in range(2)]
    parameters, moments = engine.capture()
    norms.append(update(engine, 2, factor=0.5))
    found["one micro batch"] = {**states(engine), "norms": torch.tensor(norms)}

    engine = engine_of(zero_stage, **resources)
    cuts = [(2, 3, 7), (5, 7), (4, 2, 2, 4)]
    norms = [update(engine, number, cuts[number], (1.0, 1.0, 0.5)[number]) for number in range(3)]
    found["uneven micro batches"] = {**states(engine), "norms": torch.tensor(norms)}

    engine = engine_of(zero_stage, **resources)
    update(engine, 7)
    engine.restore(parameters, moments, 2)
    update(engine, 2, factor=0.5)
    found["restored"] = states(engine)

    engine = started(zero_stage, **resources)
    update(engine, 2, (4, 2, 2, 4), 0.5)
    found["without a skipped step"] = states(engine)
    for scale in (torch.nan, torch.inf, 1.0):
        engine = started(zero_stage, **resources)
        found["before a skipped step"] = states(engine)
        backward(engine, 9, (2, 3, 7), scale)
        engine.skip()
        found[f"skipped {scale}"] = states(engine)
        update(engine, 2, (4, 2, 2, 4), 0.5)
        found[f"went on after skipping {scale}"] = states(engine)
    for scale in (torch.nan, torch.inf):
        engine = started(zero_stage, **resources)
        backward(engine, 9, (2, 3, 7), scale)
        norm = engine.step(1.0)
        found[f"refused {scale}"] = {**states(engine), "norm": torch.tensor(norm)}
        update(engine, 2, (4, 2, 2, 4), 0.5)
        found[f"went on after refusing {scale}"] = states(engine)
    return found


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    for stage in range(4):
        torch.save(findings(stage), folder / f"{stage}-{distributed.get_rank()}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
