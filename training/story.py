"""What a store tells of its pipeline over time: data, work done and saved, models. `frostline status`, `frostline
overview` and the Prometheus metrics all show this.

Counted is what manifests, the ledger and the notices hold. A run that reuses a whole step writes nothing, so what such
a run saved is not here: Prefect's server knows it (`flows.prefect_story`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from training.made import Device, Made
from training.served import Served


class Growth(BaseModel):
    """A dataset when it was committed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    at: str
    rows: int
    images: int
    quarantined: int


class Work(BaseModel):
    """All outputs of one step of one recipe together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    step: str
    device: Device | None
    outputs: int
    rows: int
    """Of the newest output."""
    newest_at: str
    seconds: float
    """From start to commit, by the clock."""
    accelerator_seconds: float
    """`seconds` times the GPUs held; on `cpu` as they are. 0 for steps that hold no accelerator."""
    accelerator_seconds_saved: float
    """What units taken over would have taken (see `Made.seconds_saved`)."""
    units_done: int
    """Images encoded by `featurize`, replies asked by `evaluate`."""
    units_saved: int
    parts: int
    parts_saved: int


class Speed(BaseModel):
    """Of one training: medians over its steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    at: str
    images_per_second: float
    target_tokens_per_second: float


class Moment(BaseModel):
    """Sums over all that was made until then."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: str
    encoded: int
    encodes_saved: int
    accelerator_seconds: float
    accelerator_seconds_saved: float


class Story(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    growth: list[Growth]
    work: list[Work]
    speeds: list[Speed]
    moments: list[Moment]
    models: Served
    damaged: list[str]
    """Manifests that cannot be read."""


def story_of(made: Sequence[Made], models: Served, damaged: Sequence[str] = ()) -> Story:
    """`made` in the order it was."""
    return Story(
        growth=[_growth(one) for one in made if one.step == "ingest"],
        work=_work(made),
        speeds=[
            Speed(recipe=one.recipe, at=one.made_at, **one.speeds)
            for one in made
            if one.step == "train" and len(one.speeds) == 2
        ],
        moments=_moments(made),
        models=models,
        damaged=list(damaged),
    )


def _growth(made: Made) -> Growth:
    return Growth(
        recipe=made.recipe,
        at=made.made_at,
        rows=made.rows,
        images=made.counts.get("images", 0),
        quarantined=made.counts.get("quarantined", 0),
    )


def _work(made: Sequence[Made]) -> list[Work]:
    groups: dict[tuple[str, str, Device | None], list[Made]] = {}
    for one in made:
        groups.setdefault((one.recipe, one.step, one.device), []).append(one)
    return [
        Work(
            recipe=recipe,
            step=step,
            device=device,
            outputs=len(group),
            rows=group[-1].rows,
            newest_at=group[-1].made_at,
            seconds=sum(one.seconds for one in group),
            accelerator_seconds=sum(one.accelerator_seconds for one in group),
            accelerator_seconds_saved=sum(one.accelerator_seconds_saved for one in group),
            units_done=sum(one.units_done for one in group),
            units_saved=sum(one.units_saved for one in group),
            parts=sum(len(one.part_digests) for one in group),
            parts_saved=sum(one.parts_saved for one in group),
        )
        for (recipe, step, device), group in groups.items()
    ]


def _moments(made: Sequence[Made]) -> list[Moment]:
    found: list[Moment] = []
    last = Moment(at="", encoded=0, encodes_saved=0, accelerator_seconds=0, accelerator_seconds_saved=0)
    for one in made:
        if one.device is None:
            continue
        encodes = one.step == "featurize"
        last = Moment(
            at=one.made_at,
            encoded=last.encoded + (one.units_done if encodes else 0),
            encodes_saved=last.encodes_saved + (one.units_saved if encodes else 0),
            accelerator_seconds=last.accelerator_seconds + one.accelerator_seconds,
            accelerator_seconds_saved=last.accelerator_seconds_saved + one.accelerator_seconds_saved,
        )
        found.append(last)
    return found
