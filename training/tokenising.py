"""Examples → images with their branches, once, before any step. Everything that cannot be trained is named here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from data_prep.dataset import Example
from infra.errors import ConfigError, DataError
from training.config import TrainConfig
from training.language_model import LanguageModel
from training.objectives import Objective, objectives_of
from training.objectives.answer_space import AnswerSpace
from training.packing import Branch, Layout, PackedImage


def tokenise(
    examples: Sequence[Example], language: LanguageModel, config: TrainConfig, layout: Layout, space: AnswerSpace
) -> tuple[PackedImage, ...]:
    """Images by id with all their branches, of the objectives that are trained."""
    objectives = objectives_of(config.objectives)
    wanted = [
        (number, objective, example)
        for example in sorted(examples, key=lambda example: example.example_id)
        for number, objective in enumerate(objectives)
        if example.task == objective.task
    ]
    prompts = _unique((o.prompt(example.prompt) for _, o, example in wanted), language.encode)
    targets = _unique((target for _, o, e in wanted for target in _targets(o, e)), language.encode_targets)
    # Texts that are equal once they are cut are one text.
    whole = {text: ended(ids, language.eos_id, config.max_target_tokens) for text, ids in targets.items()}
    numbers = {ids: float(number) for number, ids in enumerate(sorted(set(whole.values())))}
    by_image: dict[str, list[Branch]] = {}
    for number, objective, example in wanted:
        for text, values in _branches(objective, example, space):
            prompt_ids = prompts[objective.prompt(example.prompt)]
            target_ids: tuple[int, ...] = ()
            if text is not None:
                _check_tokens(targets[text], text, example)
                target_ids = whole[text]
            if text is not None and objective.has_head:
                # The text is read whole, and compared by its number.
                prompt_ids, target_ids, values = target_ids, (), (numbers[target_ids],)
            made = Branch(
                example.example_id, number, prompt_ids, target_ids, example.weight, values, objective.sees_image
            )
            language.check_length(layout.shared + made.num_inputs, f"example {example.example_id[:12]}…")
            by_image.setdefault(example.image_id, []).append(made)
    return tuple(PackedImage(image_id, tuple(by_image[image_id])) for image_id in sorted(by_image))


def check_objectives(images: Sequence[PackedImage], config: TrainConfig) -> None:
    """Raises DataError where nothing can be trained, ConfigError where the recipe names an objective without examples.

    A default objective may have none."""
    objectives = objectives_of(config.objectives)
    tasks = ", ".join(sorted({objective.task for objective in objectives}))
    if not images:
        raise DataError(
            "the train split has no example of a task that is trained; expected at least one. Check the sources' "
            f"splits and training.objectives (tasks: {tasks})."
        )
    if config.objectives == type(config).model_fields["objectives"].default:
        return
    found = {branch.objective for image in images for branch in image.branches}
    for number, objective in enumerate(objectives):
        if number not in found:
            raise ConfigError(
                f"training.objectives names {objective.name}, and the train split has no {objective.task} example; "
                "expected at least one. Add such a source, or leave the objective out."
            )


def _targets(objective: Objective, example: Example) -> tuple[str, ...]:
    if objective.has_head and objective.sees_image:
        return ()
    return example.targets


def _branches(
    objective: Objective, example: Example, space: AnswerSpace
) -> Iterable[tuple[str | None, tuple[float, ...]]]:
    """(target text, values of the head) of each branch that this objective makes of this example."""
    if objective.name == "classify" and objective.has_head:
        # A label of another split that training never saw has no number; its examples are left out.
        known = example.label in space.labels
        return [(None, (float(space.labels.index(example.label)),))] if known else []
    if objective.name == "regress":
        if len(example.numbers) != len(space.number_means):
            raise DataError(
                f"example {example.example_id[:12]}… ({example.source}) has {len(example.numbers)} numbers; expected "
                f"{len(space.number_means)}, as in the train split. Correct it in its source."
            )
        scaled = zip(example.numbers, space.number_means, space.number_deviations, strict=True)
        return [(None, tuple((value - mean) / deviation for value, mean, deviation in scaled))]
    return [(target, ()) for target in example.targets]


def _unique(texts: Iterable[str], encode: Callable[[list[str]], list[tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    ordered = sorted(set(texts))
    return dict(zip(ordered, encode(ordered), strict=True))


def _check_tokens(target: tuple[int, ...], text: str, example: Example) -> None:
    if not target:
        raise DataError(
            f"example {example.example_id[:12]}… ({example.source}): the target {text!r} has no tokens; "
            "expected at least one. Remove the example from its source, or ingest it with text."
        )


def ids_of_targets(targets: Sequence[str], language: LanguageModel, config: TrainConfig) -> list[tuple[int, ...]]:
    """Of each text, as a target of this training."""
    ids = language.encode_targets(list(targets))
    return [ended(one, language.eos_id, config.max_target_tokens) for one in ids]


def ended(target: tuple[int, ...], eos: int, max_tokens: int) -> tuple[int, ...]:
    """With the end token, or cut without one: a cut text has not ended."""
    return (*target, eos) if len(target) < max_tokens else target[:max_tokens]
