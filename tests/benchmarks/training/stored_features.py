"""Features from the store against a tower that encodes each image inside the training loop."""

import sys
from collections.abc import Iterator
from typing import Any

from comparing import compared
from jobs import job_of
from plan import Plan
from results import Result, ratio
from sides import Side

CONDITIONS = (
    "{name}, {images} real photos a step; features of MobileNetV2 ([49, 1280]). The same loop twice: once its features "
    "come from the store, once each batch's photos are read, decoded and encoded by the thread that packs batches. "
    "Losses of the first step agree within 1e-3."
)


def measure(plan: Plan) -> Iterator[Result]:
    case = plan.photos
    asked: dict[str, Any] = {"job": str(job_of(case, plan)), "warm_up_steps": plan.warm_up_steps}
    encoding = {**asked, "tower": str(plan.mobilenet), "photos": str(plan.shared_data / "coco_mini" / "images")}
    with (
        Side("from the store", sys.executable, "training/frostline_side.py", plan.cores) as stored,
        Side("encoding", sys.executable, "training/frostline_side.py", plan.cores) as encoded,
    ):
        sides = compared(
            min(plan.rounds, 3),
            {
                "from the store": (stored, "train", asked),
                "encoding": (encoded, "train_encoding", encoding),
            },
        )
    conditions = CONDITIONS.format(name=case.name, images=case.global_batch_images)
    yield ratio("features from the store", ("from the store", "encoding"), sides, None, conditions)
