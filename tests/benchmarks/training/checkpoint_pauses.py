"""Time that training stands still for checkpoints, as a share of all of it, at the default interval."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from jobs import job_of
from plan import Plan
from results import Result, runs_of
from sides import Side

GOAL = 0.01
CONDITIONS = (
    "{name}: a training of {steps} steps with a checkpoint every {every}, mapper and moments {megabytes:.0f} MB. The "
    "share of its steps' time that the loop itself counts as checkpoints; they are written beside the training, and "
    "what that takes from the steps is in their time."
)


def measure(plan: Plan) -> Iterator[Result]:
    every = plan.checkpoint_every_steps
    case = replace(plan.loop, num_steps=2 * every + every // 4, global_batch_images=4, micro_batch_tokens=512)
    asked = {"job": str(job_of(case, plan)), "checkpoint_every_steps": every}
    with Side("frostline", sys.executable, "training/frostline_side.py", plan.cores) as side:
        answers = [side.ask("pauses", **asked) for _ in range(min(plan.rounds, 2))]
    runs = runs_of(side, asked, "of the time", [answer["paused_seconds"] / answer["seconds"] for answer in answers])
    conditions = CONDITIONS.format(
        name=case.name, steps=case.num_steps, every=every, megabytes=answers[0]["bytes"] / 1e6
    )
    yield Result("checkpoint pauses", round(runs.median, 5), "share", GOAL, False, {"frostline": runs}, conditions)
