"""Target tokens per second against the `transformers` Trainer: the same model, texts, global batches and precision."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from comparing import compared
from jobs import job_of
from plan import Case, Plan, TrainerSettings
from results import Result, ratio
from sides import Side

CONDITIONS = (
    "Steady steps of whole trainings: {steps} of {all}, {images} images with {targets} targets each a step, fp32, two "
    "threads, AdamW, clipping. A GPT-2 with random weights, {layers} layers of {width}, {tokens} tokens; mapper "
    "{mapper}. Losses of the first step agree within 1e-3. The Trainer has one padded sequence per target, sorted by "
    "length within each global batch, at its fastest of several micro batches; on our side data come from a store and "
    "curves are kept, on its side nothing is logged."
)


def few_captions(plan: Plan) -> Iterator[Result]:
    yield _compare(plan, plan.few_captions, 1.7)


def long_prefix(plan: Plan) -> Iterator[Result]:
    yield _compare(plan, plan.long_prefix, 3.2)


def answers(plan: Plan) -> Iterator[Result]:
    yield _compare(plan, plan.answers, 5.0)


def _compare(plan: Plan, case: Case, goal: float) -> Result:
    asked: dict[str, Any] = {"job": str(job_of(case, plan)), "warm_up_steps": plan.warm_up_steps}
    with (
        Side("frostline", sys.executable, "training/frostline_side.py", plan.cores) as frostline,
        Side("Trainer", sys.executable, "training/trainer_side.py", plan.cores) as trainer,
    ):
        sides = compared(
            plan.rounds,
            {
                "frostline": (frostline, "train", asked),
                "Trainer": (trainer, "train", {**asked, **asdict(case.trainer)}),
            },
        )
    return ratio(f"target tokens, {case.name}", ("frostline", "Trainer"), sides, goal, _conditions(case, plan))


def _conditions(case: Case, plan: Plan) -> str:
    return CONDITIONS.format(
        steps=case.num_steps - plan.warm_up_steps,
        all=case.num_steps,
        images=case.global_batch_images,
        targets=case.targets_per_image,
        layers=case.language_model["n_layer"],
        width=case.language_model["n_embd"],
        tokens="GPT-2's 50257" if case.vocabulary == "gpt2" else "1024",
        mapper=" ".join(f"{name}={value}" for name, value in case.mapper.items()),
    )


def settings(plan: Plan) -> Iterator[Result]:
    """Trials of the Trainer alone, for the settings in plan.py: a value is its speed over that with the settings of
    the plan."""
    for case in (plan.few_captions, plan.long_prefix, plan.answers):
        asked: dict[str, Any] = {"job": str(job_of(case, plan)), "warm_up_steps": plan.warm_up_steps}
        trials = {"as planned": case.trainer, **_trials(case)}
        with Side("Trainer", sys.executable, "training/trainer_side.py", plan.cores) as trainer:
            sides = compared(
                2, {name: (trainer, "train", {**asked, **asdict(trial)}) for name, trial in trials.items()}
            )
        for name in trials:
            if name != "as planned":
                both = {each: sides[each] for each in (name, "as planned")}
                yield ratio(f"Trainer, {case.name}: {name}", (name, "as planned"), both, None, "Trial of the Trainer.")


def _trials(case: Case) -> dict[str, TrainerSettings]:
    per_step = case.global_batch_images * case.targets_per_image
    sizes = [per_step // parts for parts in (1, 2, 5, 10, 20) if per_step % parts == 0]
    by_size = {
        f"{size} sequences": replace(case.trainer, sequences_per_micro_batch=size)
        for size in sizes
        if size != case.trainer.sequences_per_micro_batch
    }
    return {
        **by_size,
        "not sorted": replace(case.trainer, sorted_by_length=False),
        "1 worker": replace(case.trainer, num_workers=1),
        "2 workers": replace(case.trainer, num_workers=2),
    }
