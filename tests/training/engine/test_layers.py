from typing import Any

import pytest
import torch
from language_model_families import FAMILIES, NUM_LAYERS, families
from torch import Tensor

from infra.errors import ConfigError
from training.layers import checkpoint_layers, decoder_layers, fuse_activations
from training.regimes import apply_regime, set_train_mode
from training.regimes.config import AdapterRegime, FullRegime, LoraRegime, PrefixRegime, RegimeConfig

REGIMES: list[RegimeConfig] = [
    PrefixRegime(),
    LoraRegime(kind="lora", learning_rate=1e-3, target_modules="all-linear", dropout=0.3),
    AdapterRegime(kind="adapter", learning_rate=1e-3, width=4),
    FullRegime(kind="full", learning_rate=1e-3),
]


def language_model(family: str) -> Any:
    torch.manual_seed(0)
    return families()[family]().requires_grad_(False).eval()


def loss_and_gradients(model: Any) -> tuple[Tensor, list[Tensor], int]:
    """Of a prefix and of what the regime trains; and the bytes that autograd keeps."""
    torch.manual_seed(1)
    prefix = torch.randn(2, 9, 32, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(inputs_embeds=prefix, use_cache=False).logits.logsumexp(-1).square().mean()
    num_kept = sum(kept.values())
    trained = [prefix, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return loss.detach(), [gradient for gradient in gradients if gradient is not None], num_kept


@pytest.mark.parametrize("config", REGIMES, ids=lambda config: config.kind)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_keeps_less_and_changes_neither_loss_nor_gradients(
    family: str, config: RegimeConfig
) -> None:
    model = language_model(family)
    apply_regime(config, model, seed=0)
    set_train_mode(model, True)
    loss, gradients, num_kept = loss_and_gradients(model)
    checkpoint_layers(model)
    own_loss, own_gradients, own_num_kept = loss_and_gradients(model)
    assert torch.equal(own_loss, loss)
    assert len(gradients) > (config.kind != "prefix") and len(own_gradients) == len(gradients)
    assert all(torch.equal(own, expected) for own, expected in zip(own_gradients, gradients, strict=True))
    assert own_num_kept < num_kept


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_leaves_generation_with_a_cache_alone(family: str) -> None:
    model = language_model(family)
    tokens_BT = torch.tensor([[3, 4, 5]])
    expected = model.generate(tokens_BT, max_new_tokens=4, do_sample=False)
    checkpoint_layers(model)
    assert torch.equal(model.generate(tokens_BT, max_new_tokens=4, do_sample=False), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decoder_layer_is_found_once_and_in_order(family: str) -> None:
    model = language_model(family)
    seen: list[Any] = []
    for layer in decoder_layers(model):
        layer.register_forward_hook(lambda layer, *_: seen.append(layer))
    model(torch.tensor([[3, 4]]))
    assert len(seen) == NUM_LAYERS and seen == decoder_layers(model)


def test_a_model_without_marked_layers_is_one_clear_sentence() -> None:
    with pytest.raises(ConfigError, match="Linear has no decoder layers that transformers marks"):
        checkpoint_layers(torch.nn.Linear(2, 2))


def test_one_kernel_of_gelu_keeps_less_and_has_the_same_loss_and_gradients() -> None:
    model = language_model("gpt2")
    loss, gradients, num_kept = loss_and_gradients(model)
    fuse_activations(model)
    own_loss, own_gradients, own_num_kept = loss_and_gradients(model)
    torch.testing.assert_close(own_loss, loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(own_gradients, gradients, atol=1e-5, rtol=0)
    assert own_num_kept < num_kept
