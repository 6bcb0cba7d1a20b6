"""Heads on the language model's hidden states: classes and numbers. Computed in fp32.

Shapes: M reads, D LM width, C labels, R numbers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Head(nn.Module):
    """One matrix. It starts at zero, where every class is as likely and every number is the mean."""

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, num_outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """float32[M, C] or [M, R]."""
        with torch.autocast(hidden_MD.device.type, enabled=False):
            outputs: Tensor = self.output(hidden_MD.float())
        return outputs


class ClassifyHead(_Head):
    """One score per label."""

    def losses(self, hidden_MD: Tensor, values_MR: Tensor, label_smoothing: float) -> Tensor:
        """[M]: cross-entropy. `values_MR` holds the label's number, R = 1."""
        return functional.cross_entropy(
            self(hidden_MD), values_MR[:, 0].long(), reduction="none", label_smoothing=label_smoothing
        )


class RegressHead(_Head):
    """R numbers, in units of their standard deviation over the train split."""

    def __init__(self, width: int, num_numbers: int, loss: str) -> None:
        super().__init__(width, num_numbers)
        self.loss = loss

    def losses(self, hidden_MD: Tensor, values_MR: Tensor, _: float) -> Tensor:
        """[M]: mean over the numbers of squared error or of Huber's loss. Smoothing does not apply."""
        measure = functional.mse_loss if self.loss == "mse" else functional.huber_loss
        numbers_MR = self(hidden_MD)
        # Without reads the values have no width.
        return measure(numbers_MR, values_MR.float().expand_as(numbers_MR), reduction="none").mean(dim=1)
