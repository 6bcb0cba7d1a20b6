"""Shapes: B images, P patches, V vision width, K prefix length, D LM width."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from infra.errors import ConfigError
from training.mappers import MapperShape, build_mapper
from training.mappers.config import MapperConfig

P, V, D, SCALE = 5, 8, 32, 0.02
SMALL = {"width": 16, "num_layers": 2, "num_heads": 2}
MAPPERS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "prefix_tokens": 3},
    "linear-patches": {"kind": "linear", "prefix_tokens": P, "pooling": "patches"},
    "mlp": {"kind": "mlp", "prefix_tokens": 3, "width": 16},
    "transformer": {"kind": "transformer", "prefix_tokens": 3, **SMALL},
    "resampler": {"kind": "resampler", "prefix_tokens": 3, **SMALL},
    "resampler-deep": {"kind": "resampler", "prefix_tokens": 7, "width": 24, "num_layers": 5, "num_heads": 4},
}


def mapper(fields: dict[str, Any], num_patches: int = P) -> nn.Module:
    torch.manual_seed(0)
    config: MapperConfig = TypeAdapter(MapperConfig).validate_python(fields)
    return build_mapper(config, MapperShape(num_patches, V, D, SCALE))


@pytest.mark.parametrize("name", MAPPERS)
@pytest.mark.parametrize("feature_scale", [0.1, 10.0])
def test_a_prefix_starts_at_the_scale_of_the_embeddings_whatever_that_of_the_features(
    name: str, feature_scale: float
) -> None:
    prefix_BKD = mapper(MAPPERS[name])(torch.randn(64, P, V) * feature_scale)
    assert prefix_BKD.shape == (64, MAPPERS[name]["prefix_tokens"], D)
    assert 0.7 < prefix_BKD.std().item() / SCALE < 1.4


@pytest.mark.parametrize("name", MAPPERS)
def test_every_number_of_a_mapper_gets_a_gradient_above_rounding(name: str) -> None:
    module = mapper(MAPPERS[name]).double()
    patches_BPV = torch.randn(64, P, V, dtype=torch.float64)
    target_BKD = torch.randn(64, MAPPERS[name]["prefix_tokens"], D, dtype=torch.float64)
    (module(patches_BPV) * target_BKD).sum().backward()
    smallest = {key: parameter.grad.abs().min().item() for key, parameter in module.named_parameters()}
    # The bias of an attention's keys would have 1e-16 here, which Adam scales up to full steps.
    assert {key: gradient for key, gradient in smallest.items() if gradient < 1e-12} == {}


@pytest.mark.parametrize("name", ["linear-patches", "transformer", "resampler"])
def test_a_mapper_tells_places_apart(name: str) -> None:
    module = mapper(MAPPERS[name])
    patches_BPV = torch.randn(64, P, V)
    moved = module(patches_BPV.flip(1)) - module(patches_BPV)
    assert moved.std() > 0.02 * SCALE  # 0.04 with positions of scale 0.7, 0.002 with 0.02


def test_resampler_latents_read_each_patch() -> None:
    module = mapper(MAPPERS["resampler"])
    patches_BPV = torch.randn(1, P, V, requires_grad=True)
    module(patches_BPV).square().sum().backward()
    assert (patches_BPV.grad[0].norm(dim=-1) > 0).all()


def test_one_vector_per_patch_needs_as_many_prefix_tokens() -> None:
    with pytest.raises(ConfigError, match="prefix_tokens is 5; expected 9, the vision tower's number of patches"):
        mapper(MAPPERS["linear-patches"], num_patches=9)


@pytest.mark.parametrize("name", ["linear", "resampler"])
def test_dropout_works_in_training_alone(name: str) -> None:
    module = mapper({**MAPPERS[name], "dropout": 0.5})
    patches_BPV = torch.randn(4, P, V)
    assert not torch.equal(module(patches_BPV), module(patches_BPV))
    module.eval()
    assert torch.equal(module(patches_BPV), module(patches_BPV))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="width 16 is not a multiple of num_heads 3"):
        mapper({**MAPPERS["resampler"], "num_heads": 3})
