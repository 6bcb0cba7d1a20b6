"""A tuned pair of towers, put together again from a `train` output and the text tower it started from."""

from pathlib import Path

from safetensors.torch import load_file

from data_prep.features import FeatureStore
from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.config import TrainConfig
from training.lit.material import text_tower_of
from training.lit.model import LitModel, build_lit_model
from training.lit.text_tower import TextTower
from training.prefix_model import load_trainable_state


def load_lit(
    train: Manifest, features: FeatureStore, text_tower_folder: Path, cache: PartCache, device: str
) -> tuple[LitModel, TextTower]:
    """The model in eval mode, with verified weights. Raises IntegrityError where they are damaged."""
    config = TrainConfig.model_validate(train.facts["config"])
    tower = text_tower_of(config, text_tower_folder)
    model = build_lit_model(config, tower, features.vision_width)
    (part,) = train.parts_of("trainables")
    load_trainable_state(model, load_file(cache.path("train", part)))
    return model.to(device).eval(), tower
