"""Training runs: one MLflow run per training, however often the training was interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from infra.tracking.server import answers, open_client, sqlite_path

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FINGERPRINT_TAG = "frostline.fingerprint"
MAX_BATCH_POINTS = 1000
MAX_PARAM_LENGTH = 6000


class TrainingRun:
    """An MLflow run that may be written by several attempts at one training, one after the other."""

    def __init__(self, client: MlflowClient, tracking_uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._uri = tracking_uri
        self._seen: dict[str, set[int]] = {}

    def log_points(self, points: Sequence[tuple[str, int, float]]) -> None:
        """(name, step, value). A step that the metric has already is skipped, whatever its value."""
        from mlflow.entities import Metric

        now_milliseconds = int(time.time() * 1000)
        new = []
        for name, step, value in points:
            seen = self._steps_of(name)
            if step not in seen:
                seen.add(step)
                new.append(Metric(name, float(value), now_milliseconds, step))
        with answers(self._uri):
            for start in range(0, len(new), MAX_BATCH_POINTS):
                self._client.log_batch(self.run_id, metrics=new[start : start + MAX_BATCH_POINTS])

    def log_params(self, params: Mapping[str, object]) -> None:
        """A parameter keeps its first value; where a resumed attempt differs, a tag `resumed.<name>` says so."""
        from mlflow.entities import Param

        with answers(self._uri):
            known = self._client.get_run(self.run_id).data.params
            told = {name: str(value)[:MAX_PARAM_LENGTH] for name, value in params.items()}
            new = [Param(name, value) for name, value in told.items() if name not in known]
            self._client.log_batch(self.run_id, params=new)
            for name, value in told.items():
                if known.get(name, value) != value:
                    self._client.set_tag(self.run_id, f"resumed.{name}", value)

    def finish(self, status: str = "FINISHED") -> None:
        """`FINISHED`, `FAILED` or `KILLED`. A later `open_run` continues from any of them."""
        with answers(self._uri):
            self._client.set_terminated(self.run_id, status)

    def _steps_of(self, name: str) -> set[int]:
        if name not in self._seen:
            with answers(self._uri):
                self._seen[name] = {point.step for point in self._client.get_metric_history(self.run_id, name)}
        return self._seen[name]


def open_run(tracking_uri: str, experiment: str, fingerprint: str, tags: Mapping[str, str]) -> TrainingRun:
    """The training run of this fingerprint: continued where it exists, also after a crash; else begun."""
    client = open_client(tracking_uri)
    with answers(tracking_uri):
        experiment_id = _experiment_id(client, tracking_uri, experiment)
        found = client.search_runs([experiment_id], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'")
        if not found:
            tags = {**tags, FINGERPRINT_TAG: fingerprint}
            made = client.create_run(experiment_id, tags=tags, run_name=f"train {fingerprint[:12]}")
            return TrainingRun(client, tracking_uri, made.info.run_id)
        first = min(found, key=lambda run: (run.info.start_time, run.info.run_id))
        if first.info.status != "RUNNING":
            client.update_run(first.info.run_id, status="RUNNING")
        return TrainingRun(client, tracking_uri, first.info.run_id)


def _experiment_id(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """On SQLite artifacts are given a place; MLflow's own default is the working directory."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        on_disk = tracking_uri.startswith("sqlite:")
        place = (sqlite_path(tracking_uri).parent / "artifacts").as_uri() if on_disk else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    assert found is not None, "an experiment that exists already can be read"
    return str(found.experiment_id)
