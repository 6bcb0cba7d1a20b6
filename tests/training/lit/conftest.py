"""A locked-image tuning in miniature: a small BERT as the text tower."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_towers import save_text_tower

from training.config import TrainConfig
from training.lit.text_tower import TextTower, load_text_tower


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_tower("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def bert(bert_dir: Path) -> TextTower:
    """Fresh: a model that is built around it changes it."""
    return load_text_tower(bert_dir, torch.float32)


@pytest.fixture(scope="session")
def make_lit_config() -> Callable[..., TrainConfig]:
    """make_lit_config(contrast={...}, regime={...}, field=...) -> a configuration of a tuning with 6 shared widths."""

    def make(
        contrast: dict[str, Any] | None = None, regime: dict[str, Any] | None = None, **fields: Any
    ) -> TrainConfig:
        return TrainConfig.model_validate(
            {
                "regime": {"kind": "lit", "learning_rate": 5e-3, **(regime or {})},
                "objectives": {"contrast": {"width": 6, **(contrast or {})}},
                "global_batch_images": 8,
                "epochs": 4,
                "learning_rate": 5e-3,
                "checkpoint_every_steps": 4,
                "validate_every_steps": 4,
                **fields,
            }
        )

    return make
