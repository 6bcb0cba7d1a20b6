"""What the regimes with a mapper make of a job."""

from __future__ import annotations

from dataclasses import replace

from data_prep.features import FeatureStore
from infra.errors import ConfigError
from training.asking import kinds_of
from training.compatibility import num_alike
from training.config import TrainConfig
from training.data import PrefixBatcher, Ranks
from training.job import TrainJob
from training.language_model import LanguageModel, language_model_for
from training.layers import apply_resources
from training.material import Examples, Material, given_once
from training.objectives.answer_space import answer_space_of
from training.prefix_model import PrefixModel, build_prefix_model, layout_of
from training.tokenising import tokenise

NOT_SHARED = (
    "{}: this language model does not take a block mask with position ids, so every target has a copy of the prefix "
    "of its own; the loss is the same and training is slower."
)
NEVER_ENDS = (
    "{}: {} other tokens are the same to this language model as its end-of-text token {!r}, which its pretraining "
    "never met; a regime that leaves the output matrix frozen cannot end a text with it. Set eos_token in "
    "tokenizer_config.json to the token that ended texts in its pretraining, or train by the regime full."
)


def prefix_material(job: TrainJob, features: FeatureStore, examples: Examples, ranks: Ranks) -> Material:
    """Raises where an example cannot be trained."""
    config = job.config
    language = language_model_for(config, job.language_model_dir)
    layout = layout_of(config, language)
    space = answer_space_of(examples.train, config.objectives)
    if config.objectives.contrast and not layout.shares:
        raise ConfigError(
            f"{language.folder}: objective contrast reads texts that must not see the image beside those that do, and "
            "this language model takes no block mask; expected one that does. Leave contrast out, or name another."
        )
    if config.objectives.contrast:
        # Negatives are the whole global batch, so a rank's share is not cut.
        ranks = replace(ranks, micro_batch_tokens=None)

    fresh = given_once(language, lambda: language_model_for(config, job.language_model_dir))

    def build() -> PrefixModel:
        model = build_prefix_model(config, fresh(), (features.num_patches, features.vision_width), space)
        apply_resources(model.lm.base_model, job.resources)
        return model

    return Material(
        train=tokenise(examples.train, language, config, layout, space),
        val=tokenise(examples.val, language, config, layout, space),
        batcher=PrefixBatcher(features, layout, config, ranks),
        build_model=build,
        space=space,
        messages=_messages(language, config),
    )


def _messages(language: LanguageModel, config: TrainConfig) -> tuple[str, ...]:
    told = [] if language.shares_prefix else [NOT_SHARED.format(language.folder)]
    alike = num_alike(language.model, language.eos_id)
    if alike and config.regime.kind != "full" and "text" in kinds_of(config).values():
        end = language.tokenizer.convert_ids_to_tokens(language.eos_id)
        told.append(NEVER_ENDS.format(language.folder, alike, end))
    return tuple(told)
