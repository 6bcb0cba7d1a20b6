import pytest
import torch
from torch import nn

from infra.errors import ConfigError
from training.quantising.layers import Int8Embedding, Int8Linear, int8_rows, weight_bytes


def a_matrix(outputs: int = 96, inputs: int = 160) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))


def test_rows_are_within_half_a_level_and_a_row_of_zeros_stays_zero() -> None:
    weight = a_matrix()
    weight[3] = 0
    levels, scales = int8_rows(weight)
    assert levels.dtype == torch.int8 and int(levels.abs().max()) == 127
    assert ((levels * scales[:, None] - weight).abs() <= scales[:, None] * 0.5001).all()
    assert torch.equal(Int8Embedding(levels, scales)(torch.tensor([[3]])), torch.zeros(1, 1, 160))


def test_a_row_is_answered_alike_whatever_stands_beside_it() -> None:
    """Torch's own dynamic layer fails this: it rounds by the range of the whole batch."""
    levels, scales = int8_rows(a_matrix())
    layer = Int8Linear(levels, scales, torch.ones(96))
    inputs = torch.randn(33, 5, 160)
    beside = torch.cat([inputs, 1000 * torch.randn(2, 5, 160)])
    assert torch.equal(layer(beside)[:33], layer(inputs))
    assert torch.equal(layer(inputs[:1]), layer(inputs)[:1])

    weight = torch.quantize_per_channel(
        levels * scales[:, None], scales.double(), torch.zeros(96).long(), 0, torch.qint8
    )
    torchs = torch.ao.nn.quantized.dynamic.Linear(160, 96)
    torchs.set_weight_bias(weight, None)
    assert not torch.equal(torchs(beside)[:33], torchs(inputs))


@pytest.mark.parametrize("shift", [0.0, 30.0], ids=["around zero", "far from zero"])
def test_products_are_the_matrix_times_inputs_of_seven_bits(shift: float) -> None:
    """Exact sums, also where all products have one sign, which kernels of 16 bits would cut off."""
    levels, scales = int8_rows(a_matrix().abs())
    bias, inputs = torch.randn(96), torch.rand(7, 160) + shift
    low = inputs.amin(1, keepdim=True)
    spread = inputs.amax(1, keepdim=True) - low
    rounded = ((inputs - low) / spread * 127).round().double() / 127 * spread + low
    expected = rounded @ (levels * scales[:, None].double()).t() + bias
    found = Int8Linear(levels, scales, bias)(inputs)
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-3)
    equal = torch.full((1, 160), 0.25)
    assert torch.allclose(Int8Linear(levels, scales, None)(equal), equal @ (levels * scales[:, None]).t(), rtol=1e-4)


def test_weights_take_a_quarter_of_the_memory() -> None:
    levels, scales = int8_rows(a_matrix(512, 512))
    assert weight_bytes(Int8Linear(levels, scales, None)) < 0.27 * weight_bytes(nn.Linear(512, 512, bias=False))


def test_a_processor_without_kernels_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.quantising.layers.engine", lambda: "qnnpack")
    with pytest.raises(ConfigError, match="by 'qnnpack' here; expected a processor with x86's"):
        Int8Linear(*int8_rows(a_matrix()), None)
