"""Texts per second of evaluation's answering against a plain loop over `generate` of transformers."""

import sys
from collections.abc import Iterator

from plan import Case, Plan
from results import Result, interleaved, per_second, ratio
from sides import Side
from worlds import world_of

GOAL = 1.0
CONDITIONS = (
    "{name}: {texts} texts of {words:.1f} words in the mean and {tokens} at most, greedy, batches of {batch} in the "
    "same order, two threads, fp32 on the CPU. Both sides start with loaded models and end with the same texts, which "
    "are compared. Ours is what an actor runs, with features from the store's verified parts; the other side has them "
    "in memory. Every image and prompt is another: that evaluation generates no text twice is not in it."
)


def measure(case: Case, plan: Plan) -> Iterator[Result]:
    asked = {"folder": str(world_of(case, plan.root))}
    with (
        Side("frostline", sys.executable, "evaluation/frostline_side.py", plan.cores) as frostline,
        Side("generate", sys.executable, "evaluation/plain_side.py", plan.cores) as plain,
    ):
        both = {"frostline": frostline, "generate": plain}
        for side in both.values():
            side.ask("answer", **asked)  # loads the model and warms its caches
        runs = {name: lambda side=side: side.ask("answer", **asked) for name, side in both.items()}
        answers = interleaved(plan.rounds, runs)
    texts = {answer["texts"] for found in answers.values() for answer in found}
    assert len(texts) == 1, "both sides generate the same texts, every time"
    sides = {
        name: per_second(side, {"command": "answer", **asked}, "captions", answers[name]) for name, side in both.items()
    }
    conditions = CONDITIONS.format(
        name=case.name,
        texts=case.num_texts,
        words=answers["frostline"][0]["mean_words"],
        tokens=case.max_new_tokens,
        batch=case.batch_size,
    )
    yield ratio(f"answering, {case.name}", ("frostline", "generate"), sides, GOAL, conditions)
