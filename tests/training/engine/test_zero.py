"""The engine on one rank in this process and on two through torchrun, with parameters of odd sizes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_engine import CONFIG, TinyModel, backward, engine_of, findings, started, states, update
from torch import Tensor, nn

from infra.settings import TrainResources
from training.config import TrainConfig
from training.parameter_groups import parameter_groups

Findings = dict[str, dict[str, Tensor]]
STAGES = [{"zero_stage": stage} for stage in range(4)]
OFFLOADED = [{"zero_stage": stage, "offload_optimizer": True} for stage in (1, 2, 3)]
WAYS: list[dict[str, Any]] = [
    *STAGES,
    *OFFLOADED,
    {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
]
SUPPORT = Path(__file__).resolve().parents[2] / "support"


@pytest.fixture(scope="module", params=WAYS, ids=str)
def found(request: pytest.FixtureRequest, one_rank: None) -> Findings:
    return findings(**request.param)


@pytest.fixture(scope="module")
def undivided(one_rank: None) -> dict[str, Tensor]:
    """One rank, stage 0, whole batches: plain torch, clipping and AdamW."""
    return findings(zero_stage=0)["one micro batch"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[Findings]]:
    """By stage, by rank."""
    folder = tmp_path_factory.mktemp("two_ranks")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(SUPPORT / "tiny_engine.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT.parents[1]}{os.pathsep}{SUPPORT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [[torch.load(folder / f"{stage}-{rank}.pt") for rank in range(2)] for stage in range(4)]


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def check(found: Findings, undivided: dict[str, Tensor]) -> None:
    for way in ("one micro batch", "uneven micro batches"):
        for name, value in undivided.items():
            torch.testing.assert_close(found[way][name], value, atol=1e-6, rtol=1e-6)
    assert_same_bits({**found["restored"], "norms": found["one micro batch"]["norms"]}, found["one micro batch"])
    for scale in ("nan", "inf", "1.0"):
        assert_same_bits(found[f"skipped {scale}"], found["before a skipped step"])
        assert_same_bits(found[f"went on after skipping {scale}"], found["without a skipped step"])
    for scale in ("nan", "inf"):
        assert found[f"refused {scale}"].pop("norm").isinf()
        assert_same_bits(found[f"refused {scale}"], found["before a skipped step"])
        assert_same_bits(found[f"went on after refusing {scale}"], found["without a skipped step"])


def test_micro_batches_restored_states_and_skipped_steps_are_exact(
    found: Findings, undivided: dict[str, Tensor]
) -> None:
    check(found, undivided)


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_micro_batches_restored_states_and_skipped_steps_are_exact_on_two_ranks(
    stage: int, two_ranks: list[list[Findings]], undivided: dict[str, Tensor]
) -> None:
    for one_rank in two_ranks[stage]:
        check(one_rank, undivided)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("saved", STAGES, ids=str)
def test_a_state_of_one_stage_goes_on_under_every_other(saved: dict[str, Any], undivided: dict[str, Tensor]) -> None:
    engine = engine_of(**saved)
    for number in range(2):
        update(engine, number)
    parameters, moments = engine.capture()
    for way in WAYS:
        engine = engine_of(**way)
        engine.restore(parameters, moments, 2)
        update(engine, 2, factor=0.5)
        for name, value in states(engine).items():
            torch.testing.assert_close(value, undivided[name], atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("way", STAGES, ids=str)
def test_parameters_restored_without_moments_begin_with_a_fresh_optimizer(way: dict[str, Any]) -> None:
    engine = started(**way)
    parameters, _ = engine.capture()
    engine.restore(parameters)
    captured, moments = engine.capture()
    assert_same_bits(captured, parameters)
    assert all(not value.any() for value in moments.values())
    assert not states(engine)["num_updates"]
    with pytest.raises(ValueError, match="temperature"):
        engine.restore({name: value for name, value in parameters.items() if name != "temperature"})


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_side_moves_at_its_own_rate_times_the_factor(way: dict[str, Any]) -> None:
    """Adam's first update is the learning rate in size; matrices decay besides."""
    engine = engine_of(**way)
    before, _ = engine.capture()
    backward(engine, 0, (5, 7))
    assert engine.step(0.0) > 0
    assert_same_bits(engine.capture()[0], before)
    engine = engine_of(**way)
    update(engine, 0, (5, 7), factor=0.5)
    after, _ = engine.capture()
    rates = {"mapper": (5e-3, 0.1), "lm": (5e-4, 0.5), "temperature": (5e-3, 0.1)}
    for name, value in after.items():
        rate, decay = rates[name.split(".")[0]]
        kept = before[name] * (1 - rate * decay) if value.ndim > 1 else before[name]
        torch.testing.assert_close((value - kept).abs(), torch.full_like(value, rate), rtol=1e-3, atol=1e-7)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(("stage", "expected"), [(0, 1), (1, 1), (2, 3), (3, 3)])
def test_stages_0_and_1_reduce_once_in_a_global_step(
    stage: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others keep partitions of gradients only, so they reduce with every micro batch."""
    from deepspeed import comm

    engine = started(stage)
    seen: list[str] = []
    for name in ("all_reduce", "reduce", "reduce_scatter_fn"):
        original = getattr(comm, name)

        def counted(*args: Any, original: Any = original, name: str = name, **more: Any) -> Any:
            seen.append(name)
            return original(*args, **more)

        monkeypatch.setattr(comm, name, counted)
    counts = []
    backward_of = engine.backward

    def backward_counted(total: Tensor, boundary: bool) -> None:
        seen.clear()
        backward_of(total, boundary)
        counts.append(bool(seen))

    monkeypatch.setattr(engine, "backward", backward_counted)
    backward(engine, 0, (2, 3, 7))
    assert sum(counts) == expected and counts[-1]


def test_groups_hold_every_trained_parameter_once_and_none_is_empty() -> None:
    model = TinyModel()
    groups = parameter_groups(model, TrainConfig.model_validate(CONFIG))
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (1e-2, 0.1),
        (1e-2, 0.0),
        (1e-3, 0.5),
        (1e-3, 0.0),
    }
    alone = nn.ModuleDict({"mapper": nn.Linear(2, 2)})
    prefix = TrainConfig.model_validate({**CONFIG, "regime": {"kind": "prefix"}})
    assert [(group["lr"], group["weight_decay"]) for group in parameter_groups(alone, prefix)] == [
        (1e-2, 0.0),
        (1e-2, 0.1),
    ]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"zero_stage": 0, "offload_optimizer": True}, "offload_optimizer needs zero_stage 1, 2 or 3; found 0"),
        ({"zero_stage": 2, "offload_parameters": True}, "offload_parameters needs zero_stage 3; found 2"),
    ],
)
def test_offload_without_partitions_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainResources.model_validate({"num_ranks": 1, "threads_per_rank": 1, "micro_batch_tokens": 1, **told})
