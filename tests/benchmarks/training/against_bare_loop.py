"""What the loop costs beside forward, backward and step; and DeepSpeed beside plain torch."""

import sys
from collections.abc import Iterator
from typing import Any

from comparing import compared
from jobs import job_of
from plan import Plan
from results import Result, ratio
from sides import Side

CONDITIONS = (
    "{name}: steps are short, so that what a loop adds shows most. The whole loop (store, packing in a thread beside, "
    "curves, checks of the loss, seeds) against forward, backward and step of the same batches, ready in memory: under "
    "the same DeepSpeed engine at the same ZeRO stage, and in plain torch with its AdamW and clipping. Two threads; "
    "{steps} steady steps a run."
)


def measure(plan: Plan) -> Iterator[Result]:
    job = job_of(plan.loop, plan)
    asked: dict[str, Any] = {"job": str(job), "warm_up_steps": plan.warm_up_steps}
    with (
        Side("frostline", sys.executable, "training/frostline_side.py", plan.cores) as frostline,
        Side("bare loop", sys.executable, "training/bare_loop_side.py", plan.cores) as bare,
    ):
        sides = compared(
            plan.rounds,
            {
                "frostline": (frostline, "train", asked),
                "bare loop": (bare, "under_deepspeed", asked),
                "plain torch": (bare, "in_plain_torch", asked),
            },
        )
    conditions = CONDITIONS.format(name=plan.loop.name, steps=plan.loop.num_steps - plan.warm_up_steps)
    for other, goal in (("bare loop", 0.95), ("plain torch", None)):
        both = {name: sides[name] for name in ("frostline", other)}
        yield ratio(f"loop against {other}", ("frostline", other), both, goal, conditions)
