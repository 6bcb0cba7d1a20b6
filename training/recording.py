"""Live measurement of a training, on rank 0: curves, the tracking server, and the line that the operator sees."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from training.data import GlobalBatch
from training.history import History
from training.job import Link, TrainJob

if TYPE_CHECKING:
    from infra.tracking import TrainingRun

LOG_SECONDS = 15.0
"""Between two visits to the tracking server."""


class Recorder:
    """What is told of each global step, and to whom."""

    def __init__(self, job: TrainJob, link: Link, num_steps: int, rank: int) -> None:
        self.link, self.num_steps = link, num_steps
        self.history = History.for_steps(num_steps)
        self._job, self._is_first = job, rank == 0
        self._tracker: TrainingRun | None = None
        self._logged_step, self._logged_at = 0, time.monotonic()

    def begin(self, step: int) -> None:
        """Opens the training run; whoever calls it closes it, whatever happens."""
        self._tracker = _open_tracker(self._job) if self._is_first else None
        self.link.report(step, self.num_steps, "")

    def step(self, step: int, batch: GlobalBatch, values: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Of one global step: losses, gradient norm and learning rate (nothing where it was left out), and where its
        seconds went."""
        if not self._is_first:
            return
        whole = sum(seconds.values())
        tokens_per_second = batch.num_targets / whole
        speeds = {
            "target_tokens_per_second": tokens_per_second,
            "images_per_second": batch.num_images / whole,
            "step_seconds": whole,
            **{f"{name}_seconds": value for name, value in seconds.items()},
        }
        self.history.add_step(step, {**values, **speeds})
        told = f"loss {values['loss']:.3f}" if values else "left out"
        self.link.report(step, self.num_steps, f"{told}, {tokens_per_second:,.0f} target tokens/s")
        if time.monotonic() - self._logged_at > LOG_SECONDS:
            self.log(step)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.history.add_point(name, step, value)

    def log(self, step: int) -> None:
        """To the tracking server, whatever it has not heard."""
        if self._tracker is not None:
            self._tracker.log_points(self.history.points_after(self._logged_step))
        self._logged_step, self._logged_at = step, time.monotonic()

    def close(self, status: str) -> None:
        if self._tracker is not None:
            self._tracker.finish(status)


def _open_tracker(job: TrainJob) -> TrainingRun | None:
    if job.tracking is None:
        return None
    from infra.tracking import open_run

    run = open_run(job.tracking.uri, job.tracking.experiment, job.fingerprint, job.tracking.tags)
    sections = {"training": job.config.model_dump(mode="json"), "resources": job.resources.model_dump(mode="json")}
    run.log_params({f"{name}.{key}": value for name, fields in sections.items() for key, value in fields.items()})
    return run
