"""An evaluation that differs from an earlier one in how it is shown: it generates nothing."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from plan import Plan
from results import Result, runs_of
from sides import Side

GOAL_SECONDS = 5.0
CONDITIONS = (
    "{rows} rows: {images} images with a caption (5 references) and a question (10 answers). Seconds from the request "
    "to the committed manifest, engines and imports aside: earlier replies found, scored with both controls, report "
    "and predictions written. The model was asked nothing."
)


def measure(plan: Plan) -> Iterator[Result]:
    folder = plan.root / "second"
    folder.mkdir(exist_ok=True)
    (folder / "case.json").write_text(json.dumps(asdict(plan.cached)))
    asked = {"folder": str(folder), "num_images": plan.num_cached_images}
    with Side("frostline", sys.executable, "evaluation/frostline_side.py", plan.cores) as side:
        first = side.ask("evaluate_first", **asked)
        assert first["asked"] > 0, first
        answers = [side.ask("evaluate_again", **asked, number=number + 1) for number in range(plan.rounds)]
    assert all(answer["asked"] == 0 and answer["rows"] == first["rows"] for answer in answers), answers
    runs = runs_of(side, asked, "s", [answer["seconds"] for answer in answers])
    runs.runs_by_cpu.extend(round(answer["cpu_seconds"], 4) for answer in answers)
    conditions = CONDITIONS.format(rows=first["rows"], images=plan.num_cached_images)
    yield Result(
        "second evaluation, all cached",
        round(runs.median, 3),
        "s",
        GOAL_SECONDS,
        False,
        {"frostline": runs},
        conditions,
    )
