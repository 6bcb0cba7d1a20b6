"""The two sides of a locked-image tuning: their vectors, and what is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny_text_towers import KINDS, save_text_tower

from infra.errors import ConfigError
from training.config import TrainConfig
from training.lit.model import LitBatch, LitModel, build_lit_model
from training.lit.text_tower import TextTower, load_text_tower, padded

VISION_WIDTH = 5
TEXTS = ["a red seven", "which colour", "blue", "green one"]


def batch_of(tower: TextTower, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> LitBatch:
    """Three images: the second has two texts."""
    tokens_XT, mask_XT = padded(tower.encode(TEXTS, 64), tower.pad_id)
    patches = torch.randn(3, 4, VISION_WIDTH, generator=torch.Generator().manual_seed(0)).half()
    image_of_text = torch.tensor([0, 1, 1, 2])
    return LitBatch(
        patches, tokens_XT, mask_XT, image_of_text, torch.arange(4), torch.tensor(weights), torch.tensor(0.25)
    )


def gradients(model: LitModel, batch: LitBatch) -> dict[str, torch.Tensor | None]:
    model(batch).total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_every_trained_parameter_gets_a_gradient(
    kind: str, pooling: str, tmp_path: Path, make_lit_config: Callable[..., TrainConfig]
) -> None:
    """A parameter without one would have no optimizer state to checkpoint."""
    tower = load_text_tower(save_text_tower(kind, tmp_path), torch.float32)
    model = build_lit_model(make_lit_config(regime={"text_pooling": pooling}), tower, VISION_WIDTH)
    found = gradients(model, batch_of(tower))
    assert [name for name, gradient in found.items() if gradient is None] == []
    assert {name.partition(".")[0] for name in found} == {"lm", "text_projection", "image_projection", "loss"}


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_the_pooler_of_the_checkpoint_can_be_used(
    kind: str, tmp_path: Path, make_lit_config: Callable[..., TrainConfig]
) -> None:
    tower = load_text_tower(save_text_tower(kind, tmp_path), torch.float32)
    model = build_lit_model(make_lit_config(regime={"text_pooling": "pooler"}), tower, VISION_WIDTH)
    assert None not in gradients(model, batch_of(tower)).values()


def test_a_tower_without_a_pooler_is_refused(tmp_path: Path, make_lit_config: Callable[..., TrainConfig]) -> None:
    tower = load_text_tower(save_text_tower("gpt2", tmp_path), torch.float32)
    with pytest.raises(ConfigError, match="text_pooling is pooler, and this text tower has none"):
        build_lit_model(make_lit_config(regime={"text_pooling": "pooler"}), tower, VISION_WIDTH)


def test_a_locked_text_tower_is_not_trained(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    model = build_lit_model(make_lit_config(regime={"learning_rate": None}), bert, VISION_WIDTH).train()
    trained = gradients(model, batch_of(bert))
    assert {name.partition(".")[0] for name in trained} == {"text_projection", "image_projection", "loss"}
    assert not model.lm.training, "its dropout would be noise"


def test_without_an_image_projection_the_image_side_is_the_mean_of_the_features(
    bert: TextTower, make_lit_config: Callable[..., TrainConfig]
) -> None:
    config = make_lit_config({"width": VISION_WIDTH}, {"image_projection": "none"})
    model, batch = build_lit_model(config, bert, VISION_WIDTH), batch_of(bert)
    mean_IV = batch.patches_IPV.float().mean(dim=1)
    torch.testing.assert_close(model.image_vectors(batch.patches_IPV), mean_IV / mean_IV.norm(dim=1, keepdim=True))
    assert not [name for name in gradients(model, batch) if name.startswith("image")]


def test_without_an_image_projection_the_widths_have_to_agree(
    bert: TextTower, make_lit_config: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(ConfigError, match=r"contrast\.width is 6 .* expected the vision tower's width 5"):
        build_lit_model(make_lit_config(regime={"image_projection": "none"}), bert, VISION_WIDTH)


def test_all_vectors_have_length_1(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    model, batch = build_lit_model(make_lit_config(), bert, VISION_WIDTH), batch_of(bert)
    vectors = [model.image_vectors(batch.patches_IPV), model.text_vectors(batch.tokens_XT, batch.mask_XT)]
    for vector in torch.cat(vectors):
        assert vector.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_the_loss_is_scaled_and_told_by_weight(bert: TextTower, make_lit_config: Callable[..., TrainConfig]) -> None:
    batch = batch_of(bert, (2.0, 1.0, 0.0, 0.5))
    losses = build_lit_model(make_lit_config(), bert, VISION_WIDTH).eval()(batch)
    assert losses.weight_O.tolist() == [3.5]
    assert losses.total.item() == pytest.approx(0.25 * losses.sum_O.item())


def test_new_weights_are_a_function_of_the_seed(bert_dir: Path, make_lit_config: Callable[..., TrainConfig]) -> None:
    weights = [
        build_lit_model(make_lit_config(seed=seed), load_text_tower(bert_dir, torch.float32), VISION_WIDTH)
        for seed in (0, 0, 1)
    ]
    one, same, other = (model.text_projection.weight for model in weights)
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mapper": {"kind": "mlp", "prefix_tokens": 2, "width": 4}}, "the regime lit has no mapper"),
        ({"objectives": {"caption": {}, "contrast": {}}}, "trained by objectives.contrast alone"),
        ({"objectives": {"caption": {}}}, "trained by objectives.contrast alone"),
        ({"regularisers": {"label_smoothing": 0.1}}, "the regime lit has no regularisers"),
        ({"regime": {"kind": "lit", "learning_rate": 1e-3, "templates": ["a photo"]}}, "'a photo' has no {label}"),
    ],
)
def test_what_the_regime_cannot_use_is_refused(
    changed: dict[str, object], told: str, make_lit_config: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(ValidationError, match=told):
        make_lit_config(**changed)


def test_every_other_regime_needs_a_mapper() -> None:
    with pytest.raises(ValidationError, match="mapper is missing; expected one with the regime prefix"):
        TrainConfig.model_validate({"global_batch_images": 8, "epochs": 1, "learning_rate": 1e-3})
