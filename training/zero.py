"""DeepSpeed: the only file that knows its keys, its partitions and its state.

Trained parameters are fp32 in every precision (bf16 is autocast plus a bf16 language model), so that they are their own
master weights and one recipe gathers and sets them under every ZeRO stage.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.settings import TrainResources
from training.config import TrainConfig
from training.losses import Losses
from training.parameter_groups import parameter_groups

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_config(config: TrainConfig, resources: TrainResources) -> dict[str, Any]:
    """DeepSpeed's dictionary for this training. Micro batches differ in number, so the engine is told the boundary."""
    zero: dict[str, Any] = {"stage": resources.zero_stage, "overlap_comm": False}
    if resources.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": resources.gpus_per_rank > 0}
    if resources.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": resources.gpus_per_rank > 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Stage 0 clips in `step`, where the norm can be read; the engine would keep it to itself.
        "gradient_clipping": config.clip_norm if resources.zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }


def sweep_dead_buffers(folder: Path = Path("/dev/shm")) -> list[str]:
    """Delete DeepSpeed's 69 MB buffers that no living process maps. Containers give /dev/shm 64 MB in all."""
    buffers = [path for path in folder.glob("deepspeed_allreduce_buffer_*") if path.stat().st_uid == os.getuid()]
    if not buffers:
        return []
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped += maps.read_text()
        except OSError:  # ended meanwhile, or another user's
            continue
    dead = [path for path in buffers if str(path) not in mapped]
    for path in dead:
        path.unlink(missing_ok=True)
    return [path.name for path in dead]


class ZeroEngine:
    """A model of the loop under DeepSpeed, on this rank of an initialised process group."""

    def __init__(self, model: nn.Module, config: TrainConfig, resources: TrainResources) -> None:
        deepspeed = _import_deepspeed()
        self.stage, self.clip_norm = resources.zero_stage, config.clip_norm
        self._linked = False
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(model, config)
        self._peaks = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
        self.engine: Any = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, resources),
            dist_init_required=False,
        )[0]
        self.device = torch.device(self.engine.device)

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self.engine.module
        return model

    def __call__(self, batch: Any) -> Losses:
        losses: Losses = self.engine(batch)
        return losses

    def backward(self, total: Tensor, boundary: bool) -> None:
        """`total` is this rank's part of the global loss: parts are summed over ranks and micro batches. `boundary`
        says that it is the last of a global step; then `step` or `skip` follows."""
        self.engine.set_gradient_accumulation_boundary(boundary)
        # DeepSpeed takes the mean over ranks.
        self.engine.backward(total * torch.distributed.get_world_size(), scale_wrt_gas=False)

    def step(self, factor: float) -> float:
        """Update with `factor` times the peak learning rates; the gradient's norm before clipping."""
        for group, peak in zip(self.engine.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        norm: Any = None
        if self.stage == 0:
            norm = torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.clip_norm)
        self.engine.step()
        return float(norm if self.stage == 0 else self.engine.get_global_grad_norm())

    def skip(self) -> None:
        """Forget this global step's gradients, as DeepSpeed does where fp16 overflows. Nothing else changes."""
        optimizer = self.engine.optimizer
        optimizer.zero_grad(set_to_none=True)
        if self.stage in (1, 2):
            optimizer.micro_step_id = -1
            for group in optimizer.averaged_gradients:
                optimizer.averaged_gradients[group] = None
                optimizer.all_grad_tensors[group] = None
        elif self.stage == 3:
            optimizer.averaged_gradients = {}

    def whole(self, *parameters: Tensor) -> AbstractContextManager[Any]:
        """A context in which the parameters are not partitioned. Every rank has to enter it."""
        import contextlib

        if self.stage < 3:
            return contextlib.nullcontext()
        context: AbstractContextManager[Any] = _import_deepspeed().zero.GatheredParameters(list(parameters))
        return context

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(trained parameters, optimizer moments), whole and fp32, on every rank. Every rank has to call it."""
        self._link_moments()
        parameters = {name: _cpu(self._full(p)) for name, p in self.trained.items()}
        moments = {f"{name}.{key}": _cpu(self._full(p, key)) for name, p in self.trained.items() for key in MOMENTS}
        return parameters, moments

    def restore(self, parameters: dict[str, Tensor], moments: dict[str, Tensor], num_updates: int) -> None:
        """Continue from a captured state, whatever stage and number of ranks it was captured under."""
        if set(parameters) != set(self.trained):
            raise ValueError(f"trained parameters differ by name: {sorted(set(parameters) ^ set(self.trained))}")
        self._make_lazy_state()
        self._link_moments()
        for name, parameter in self.trained.items():
            self._set(parameter, parameters[name].to(self.device))
            for key in MOMENTS:
                self._set(parameter, moments[f"{name}.{key}"].to(self.device), key)
        for state in self._inner_optimizer().state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), num_updates)

    def _make_lazy_state(self) -> None:
        """One update with gradient zero and learning rate 0: DeepSpeed makes and links the moments only then."""
        with self.whole(*self.trained.values()):
            zero = torch.stack([parameter.sum() * 0.0 for parameter in self.trained.values()]).sum()
            self.backward(zero, boundary=True)
        self.step(0.0)

    def _link_moments(self) -> None:
        """Stages 1 and 2 link all groups' moments after the first group's first update, when the others have none."""
        if self.stage in (1, 2) and not self._linked:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()
            self._linked = True

    def _inner_optimizer(self) -> Any:
        return getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)

    def _full(self, parameter: Any, key: str | None = None) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        full: Tensor
        if self.stage == 0:
            full = self._inner_optimizer().state[parameter][key] if key else parameter
        else:
            full = safe_get_full_optimizer_state(parameter, key) if key else safe_get_full_fp32_param(parameter)
        return full

    def _set(self, parameter: Any, value: Tensor, key: str | None = None) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        with torch.no_grad():
            if self.stage == 0:
                (self._inner_optimizer().state[parameter][key] if key else parameter).copy_(value)
            elif key:
                safe_set_full_optimizer_state(parameter, value, key)
            else:
                # Both the module's copy and the optimizer's: with only one, the first loss is wrong.
                self._set_module(parameter, value)
                safe_set_full_fp32_param(parameter, value)

    def _set_module(self, parameter: Tensor, value: Tensor) -> None:
        if self.stage < 3:
            parameter.data.copy_(value)
            return
        with _import_deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
            if torch.distributed.get_rank() == 0:
                parameter.data.copy_(value)


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().clone()


def _import_deepspeed() -> Any:
    """DeepSpeed without its shared-memory all-reduce: that one compiles for a minute at the first start, spins on a
    core while it waits, and has no time-out, so that one hung rank would hang the others for ever."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    # Set without asking for the attribute: that would probe every op with a compiler.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    return deepspeed
