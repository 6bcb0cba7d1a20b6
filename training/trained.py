"""A trained prefix model, put together again from a `train` output and the frozen language model."""

from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.features import FeatureStore
from infra.outputs import Manifest
from infra.part_cache import PartCache
from training.config import TrainConfig
from training.objectives.answer_space import AnswerSpace

if TYPE_CHECKING:
    from training.language_model import LanguageModel
    from training.prefix_model import PrefixModel


def load_trained(
    train: Manifest, features: FeatureStore, language_model_folder: Path, cache: PartCache, device: str
) -> tuple["PrefixModel", "LanguageModel"]:
    """The model in eval mode, with verified weights; `train` is a `train` or a `quantise` output. Raises IntegrityError
    where they are damaged."""
    config = TrainConfig.model_validate(train.facts["config"])
    space = AnswerSpace.model_validate(train.facts["answer_space"])
    (part,) = train.parts_of("trainables")
    shape = (features.num_patches, features.vision_width)
    put = put_together_in_int8 if is_quantised(train) else put_together
    model, language = put(config, space, shape, language_model_folder, cache.path(train.step, part))
    return model.to(device).eval(), language


def is_quantised(train: Manifest) -> bool:
    """Whether these are the parameters of an int8 model, which runs on the CPU alone."""
    return train.facts.get("quantization") is not None


def put_together(
    config: TrainConfig, space: AnswerSpace, shape: tuple[int, int], language_model_folder: Path, weights: Path
) -> tuple["PrefixModel", "LanguageModel"]:
    """Of a configuration and what was trained by it. `shape` is (patches, vision width) of the features."""
    from safetensors.torch import load_file

    from training.language_model import language_model_for
    from training.prefix_model import build_prefix_model, load_trainable_state

    language = language_model_for(config, language_model_folder)
    model = build_prefix_model(config, language, shape, space)
    load_trainable_state(model, load_file(weights))
    return model, language


def put_together_in_int8(
    config: TrainConfig, space: AnswerSpace, shape: tuple[int, int], language_model_folder: Path, weights: Path
) -> tuple["PrefixModel", "LanguageModel"]:
    """The same of an int8 language model's folder, which holds all that was trained in it."""
    from safetensors.torch import load_file

    from training.prefix_model import build_prefix_model, load_trainable_state
    from training.quantising.language_model import load_int8
    from training.regimes.config import PrefixRegime, PromptRegime

    language = load_int8(language_model_folder, config.regime)
    outside = (
        config if isinstance(config.regime, PromptRegime) else config.model_copy(update={"regime": PrefixRegime()})
    )
    model = build_prefix_model(outside, language, shape, space)
    load_trainable_state(model, load_file(weights))
    return model, language
