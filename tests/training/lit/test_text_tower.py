"""Text encoders and decoders from a local folder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_language_model import save_tokenizer
from tiny_text_towers import KINDS, save_text_tower
from tiny_towers import save_tower

from infra.errors import ConfigError
from training.lit.model import pooled
from training.lit.text_tower import TextTower, load_text_tower, padded

TEXTS = ["a", "a red seven", "which colour question answer red blue green one"]
POOLINGS = ("mean", "last", "first")


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTower]:
    folders = {kind: save_text_tower(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
    return {kind: load_text_tower(folder, torch.float32) for kind, folder in folders.items()}


def vectors(tower: TextTower, texts: list[str], pooling: str) -> torch.Tensor:
    tokens_XT, mask_XT = padded(tower.encode(texts, 64), tower.pad_id)
    with torch.no_grad():
        return pooled(tower.model(input_ids=tokens_XT, attention_mask=mask_XT), mask_XT, pooling)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_has_the_same_vector_beside_longer_texts(kind: str, pooling: str, towers: dict[str, TextTower]) -> None:
    together = vectors(towers[kind], TEXTS, pooling)
    assert together.shape == (len(TEXTS), towers[kind].width)
    for text, vector in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(vector, vectors(towers[kind], [text], pooling)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_take_the_tokens_they_name(pooling: str, towers: dict[str, TextTower]) -> None:
    tower = towers["bert"]
    tokens_XT, mask_XT = padded(tower.encode(["a red seven"], 64), tower.pad_id)
    with torch.no_grad():
        output = tower.model(input_ids=tokens_XT, attention_mask=mask_XT)
    hidden_TD = output.last_hidden_state[0]
    expected = {"mean": hidden_TD.mean(dim=0), "last": hidden_TD[-1], "first": hidden_TD[0]}[pooling]
    torch.testing.assert_close(pooled(output, mask_XT, pooling)[0], expected)


def test_a_long_text_is_cut_to_the_positions_of_the_tower(towers: dict[str, TextTower]) -> None:
    (ids,) = towers["bert"].encode(["red " * 100], 64)
    assert len(ids) == towers["bert"].max_tokens == 24
    assert len(towers["bert"].encode(["red " * 100], 7)[0]) == 7


def test_a_vision_model_is_no_text_tower(tmp_path: Path) -> None:
    save_text_tower("bert", tmp_path)  # for its tokenizer
    save_tower("vit", tmp_path)
    with pytest.raises(ConfigError, match="no text tower could be used"):
        load_text_tower(tmp_path, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_with_more_tokens_than_the_tower_is_refused(kind: str, tmp_path: Path) -> None:
    save_text_tower(kind, tmp_path)
    save_tokenizer(tmp_path, extra_tokens=40)
    with pytest.raises(ConfigError, match="the tokenizer has 56 tokens; expected at most the 16 rows"):
        load_text_tower(tmp_path, torch.float32)


def test_a_pooler_that_the_checkpoint_lacks_is_not_made_up(tmp_path: Path) -> None:
    without(save_text_tower("bert", tmp_path), "pooler.")
    assert not load_text_tower(tmp_path, torch.float32).has_pooler


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    without(save_text_tower("bert", tmp_path), "encoder.layer.1.output.")
    with pytest.raises(ConfigError, match=r"4 weights are missing, the first encoder\.layer\.1\.output"):
        load_text_tower(tmp_path, torch.float32)


def without(folder: Path, beginning: str) -> None:
    """Take away the weights whose names begin so."""
    path = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if not name.startswith(beginning)}
    save_file(kept, path, {"format": "pt"})
