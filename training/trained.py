"""A trained prefix model, put together again from a `train` output and the frozen language model."""

from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.features import FeatureStore
from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.config import TrainConfig

if TYPE_CHECKING:
    from training.language_model import LanguageModel
    from training.prefix_model import PrefixModel


def load_trained(
    train: Manifest, features: FeatureStore, language_model_folder: Path, cache: PartCache, device: str
) -> tuple["PrefixModel", "LanguageModel"]:
    """The model in eval mode, with verified weights. Raises IntegrityError where they are damaged."""
    import torch
    from safetensors.torch import load_file

    from training.language_model import load_language_model
    from training.objectives.answer_space import AnswerSpace
    from training.prefix_model import build_prefix_model, load_trainable_state

    config = TrainConfig.model_validate(train.facts["config"])
    space = AnswerSpace.model_validate(train.facts["answer_space"])
    dtype = torch.bfloat16 if config.language_in_bf16 else torch.float32
    language_model = load_language_model(language_model_folder, dtype)
    model = build_prefix_model(config, language_model, (features.num_patches, features.vision_width), space)
    (part,) = train.parts_of("trainables")
    load_trainable_state(model, load_file(cache.path("train", part)))
    return model.to(device).eval(), language_model
