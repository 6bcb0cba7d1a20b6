"""DeepSpeed: the only file that knows its keys, its partitions and its state.

Trained parameters are fp32 in every precision (bf16 is autocast plus a bf16 language model), so that they are their own
master weights and one recipe gathers and sets them under every ZeRO stage.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import distributed_c10d
from torch.nn import functional

from infra.settings import TrainResources
from training.config import TrainConfig
from training.losses import Losses
from training.parameter_groups import parameter_groups

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET_ELEMENTS = 2**24
"""Gradients reduced at once: 64 MB. DeepSpeed's own bucket takes 2 GB of a GPU, whatever the model."""


def deepspeed_config(config: TrainConfig, resources: TrainResources) -> dict[str, Any]:
    """DeepSpeed's dictionary for this training. Micro batches differ in number, so the engine is told the boundary."""
    zero: dict[str, Any] = {
        "stage": resources.zero_stage,
        "overlap_comm": False,
        "reduce_bucket_size": BUCKET_ELEMENTS,
    }
    on_cpu = {"device": "cpu", "pin_memory": resources.gpus_per_rank > 0}
    if resources.offload_optimizer:
        zero["offload_optimizer"] = on_cpu
    if resources.offload_parameters:
        zero["offload_param"] = on_cpu
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Stage 0 clips in `step`, where the norm can be read; the engine would keep it to itself.
        "gradient_clipping": config.clip_norm if resources.zero_stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW runs on CPUs too; DeepSpeed's own would be compiled for a minute at the first start.
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
    """A model of the loop under DeepSpeed, on this rank of an initialised process group.

    A global step is a `backward` for each micro batch, all ranks having equally many, and then `step` or `skip`."""

    def __init__(self, model: nn.Module, config: TrainConfig, resources: TrainResources) -> None:
        self.stage, self.clip_norm = resources.zero_stage, config.clip_norm
        self.offloads = resources.offload_optimizer
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(model, config)
        self._peaks = [float(group["lr"]) for group in groups]
        _bound_waiting(timedelta(seconds=resources.rank_timeout_seconds))
        self.engine: Any = _import_deepspeed().initialize(
            model=model,
            optimizer=torch.optim.AdamW(groups, betas=config.betas, fused=True),
            config=deepspeed_config(config, resources),
            dist_init_required=False,
        )[0]
        self.device = torch.device(self.engine.device)
        self._make_moments()

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self.engine.module
        return model

    def __call__(self, batch: Any) -> Losses:
        losses: Losses = self.engine(batch)
        return losses

    def backward(self, total: Tensor, boundary: bool) -> None:
        """Add to the gradients. `total` is this rank's part of the global loss: parts are summed over ranks and micro
        batches. `boundary`: this is the global step's last."""
        self.engine.set_gradient_accumulation_boundary(boundary)
        # DeepSpeed takes the mean over ranks.
        self.engine.backward(total * distributed.get_world_size())

    def step(self, factor: float) -> float:
        """Update with `factor` in [0, 1] times every group's peak learning rate. Returns the gradient's norm before
        clipping, the same on all ranks; where it is not finite, nothing was updated."""
        for group, peak in zip(self._inner_optimizer().param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        if self.stage:
            self.engine.step()
            return float(self.engine.get_global_grad_norm())
        norm = float(nn.utils.clip_grad_norm_(list(self.trained.values()), self.clip_norm))
        if not math.isfinite(norm):
            self.skip()
            return math.inf
        self.engine.step()
        return norm

    def skip(self) -> None:
        """Instead of `step`: drop the gradients, as if this global step had not been."""
        optimizer = self.engine.optimizer
        if self.stage == 0:
            self.engine.zero_grad()
            return
        # DeepSpeed drops gradients whose norm is not finite, with all that it keeps of them. One number decides.
        if distributed.get_rank() == 0 and self.offloads:
            optimizer.norm_for_param_grads[next(iter(optimizer.norm_for_param_grads))] = torch.tensor(math.nan)
        elif distributed.get_rank() == 0:
            optimizer.averaged_gradients[0][0].view(-1)[0] = math.nan
        self.engine.step()

    def destroy(self) -> None:
        """Give its memory back, hooks and optimizer included, before another engine is built."""
        self.engine.destroy()

    def whole(self, parameter: Tensor) -> AbstractContextManager[Any]:
        """A context in which the parameter is not partitioned. Every rank has to enter it."""
        if self.stage < 3:
            return contextlib.nullcontext()
        context: AbstractContextManager[Any] = _import_deepspeed().zero.GatheredParameters([parameter])
        return context

    def capture(self, keep: bool = True, with_moments: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(trained parameters, optimizer moments), whole and fp32, copied to the CPU of every rank that would `keep`
        them; others get nothing. Every rank has to call it."""
        keys = MOMENTS if with_moments else ()
        parameters: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name, parameter in self.trained.items():
            for found, key in ((parameters, None), *((moments, key) for key in keys)):
                full = self._full(parameter, key)
                if keep:
                    found[f"{name}.{key}" if key else name] = _copied(full)
        return parameters, moments

    def restore(
        self, parameters: dict[str, Tensor], moments: dict[str, Tensor] | None = None, num_updates: int = 0
    ) -> None:
        """Continue from a captured state, whatever stage and number of ranks it was captured under; without moments
        from its parameters alone, with a fresh optimizer. Every rank has to call it."""
        if set(parameters) != set(self.trained):
            raise ValueError(f"trained parameters differ by name: {sorted(set(parameters) ^ set(self.trained))}")
        self._make_moments(num_updates)
        for name, parameter in self.trained.items():
            self._set(parameter, parameters[name].to(self.device))
            if moments is not None:
                for key in MOMENTS:
                    self._set(parameter, moments[f"{name}.{key}"].to(self.device), key)

    def _make_moments(self, num_updates: int = 0) -> None:
        """Zeros, as the optimizer's first update would make them: until then there would be nothing to get or set."""
        inner = self._inner_optimizer()
        flat: list[Tensor] = [parameter for group in inner.param_groups for parameter in group["params"]]
        if self.stage == 3:
            flat = self.engine.optimizer.fp32_partitioned_groups_flat
        for parameter in flat:
            inner.state[parameter] = {key: torch.zeros_like(parameter) for key in MOMENTS}
            inner.state[parameter]["step"] = torch.tensor(float(num_updates), device=parameter.device)
        if self.stage in (1, 2):
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

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

    @torch.no_grad()
    def _set(self, parameter: Any, value: Tensor, key: str | None = None) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if not key:
            # Both the module's copy and the optimizer's: with only one, the first loss is wrong.
            self._set_module(parameter, value)
        if self.stage == 3:
            self._set_partition(parameter, value, key)
        elif self.stage and key:
            safe_set_full_optimizer_state(parameter, value, key)
        elif self.stage:
            safe_set_full_fp32_param(parameter, value)
        elif key:
            self._inner_optimizer().state[parameter][key].copy_(value)

    def _set_module(self, parameter: Tensor, value: Tensor) -> None:
        if self.stage < 3:
            parameter.data.copy_(value)
            return
        with _import_deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
            if distributed.get_rank() == 0:
                parameter.data.copy_(value)

    def _set_partition(self, parameter: Any, value: Tensor, key: str | None) -> None:
        """By partitions, because DeepSpeed's setters of whole values read past their end where ranks do not divide
        them."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        size = parameter.ds_tensor.numel()
        padding = size * distributed.get_world_size() - value.numel()
        partition = functional.pad(value.flatten(), (0, padding)).narrow(0, size * distributed.get_rank(), size)
        if key:
            safe_set_local_optimizer_state(parameter, partition, key)
        else:
            safe_set_local_fp32_param(parameter, partition)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _bound_waiting(longest: timedelta) -> None:
    """Give process groups that are still to be made this time-out, as the world has it. DeepSpeed asks for torch's,
    which is thirty minutes, also while it waits for a rank that was lost before the group was made."""
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(distributed_c10d, name, longest)


def _import_deepspeed() -> Any:
    """DeepSpeed without its shared-memory all-reduce: that one compiles for a minute at the first start, spins on a
    core while it waits, and has no time-out, so that one hung rank would hang the others for ever."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    # Set without asking for the attribute: that would probe every op with a compiler.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    return deepspeed
