"""Matrices of a language model as int8 rows, on the kernels of torch itself.

Weights: each row of the output divided by a scale of its own. What the matrix reads is rounded to 7 bits, every row
between its own least and greatest value: torch's own dynamic layer takes one range for the whole batch, so that an
answer follows from its neighbours. With 7 bits no pair of products leaves 16 bits, where the kernels of processors
without VNNI would cut it off: sums are exact, and the same on each.

Shapes: O outputs of a matrix or rows of a table, I inputs, D LM width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import ConfigError

WEIGHT_LEVELS = 127
INPUT_LEVELS = 127
LEAST = 1e-12
"""Of a scale: a row of zeros has one too."""


def int8_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8[O, I], float32[O]): the matrix is about the one times the other. The same bytes for the same matrix."""
    weight_OI = weight_OI.detach().float().cpu()
    scales_O = (weight_OI.abs().amax(dim=1) / WEIGHT_LEVELS).clamp(min=LEAST)
    levels_OI = (weight_OI / scales_O[:, None]).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    return levels_OI.to(torch.int8).contiguous(), scales_O


class Int8Linear(nn.Module):
    """A linear layer of int8 rows, float32 in and out; on CPUs alone. Raises ConfigError where torch has no kernel."""

    sums_O: Tensor
    bias_O: Tensor | None

    def __init__(self, levels_OI: Tensor, scales_O: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        check_processor()
        weight_OI = levels_OI.float() * scales_O[:, None]
        zeros_O = torch.zeros(len(scales_O), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the type qint8, which the kernel takes and no file of ours holds
            quantised = torch.quantize_per_channel(weight_OI, scales_O.double(), zeros_O, 0, torch.qint8)
        self.out_features, self.in_features = levels_OI.shape
        self._packed: Any = torch.ops.quantized.linear_prepack(quantised, None)
        self.register_buffer("sums_O", weight_OI.sum(dim=1))
        self.register_buffer("bias_O", None if bias_O is None else bias_O.float())

    def forward(self, inputs: Tensor) -> Tensor:
        """[*, O] of [*, I], in the input's dtype. Rows do not see each other."""
        values = inputs.float()
        low, high = torch.aminmax(values, dim=-1, keepdim=True)
        spread = (high - low).clamp_(min=LEAST)
        products = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            (values - low).div_(spread), 1 / INPUT_LEVELS, 0, self._packed
        )
        moved = low * self.sums_O if self.bias_O is None else torch.addcmul(self.bias_O, low, self.sums_O)
        return torch.addcmul(moved, products, spread).to(inputs.dtype)

    @property
    def num_bytes(self) -> int:
        """Of the packed matrix, which is no parameter."""
        return int(self.out_features * (self.in_features + 4))


class Int8Embedding(nn.Module):
    """A table of int8 rows, each read as float32[D]."""

    levels_OD: Tensor
    scales_O: Tensor

    def __init__(self, levels_OD: Tensor, scales_O: Tensor) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = levels_OD.shape
        self.register_buffer("levels_OD", levels_OD)
        self.register_buffer("scales_O", scales_O)

    def forward(self, ids: Tensor) -> Tensor:
        return self.levels_OD[ids].float() * self.scales_O[ids][..., None]

    @property
    def weight(self) -> Tensor:
        """int8[O, D], for who asks a table's shape or device by it."""
        return self.levels_OD


def check_processor() -> None:
    """Raises ConfigError where int8 models cannot run."""
    if engine() not in ("x86", "fbgemm", "onednn"):
        raise ConfigError(
            f"torch computes with int8 by {engine()!r} here; expected a processor with x86's "
            "kernels. Use the model that it was quantised from."
        )


def engine() -> str:
    """What torch computes with int8 by."""
    return str(torch.backends.quantized.engine)


def weight_bytes(model: nn.Module) -> int:
    """That the model's parameters, buffers and packed matrices take in memory; what is shared counts once."""
    own = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    packed = [module.num_bytes for module in model.modules() if isinstance(module, Int8Linear)]
    return sum(own.values()) + sum(packed)
