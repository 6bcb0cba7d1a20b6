"""MLflow: training runs and the model registry. The only file that imports mlflow, and only where it is used.

Works on SQLite without a server and over HTTP. Every change can be made twice with the effect of once.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from infra.errors import ConfigError, FrostlineError, PlatformError

if TYPE_CHECKING:
    import mlflow
    from mlflow.tracking import MlflowClient

FINGERPRINT_TAG = "frostline.fingerprint"
DIGEST_TAG = "model_digest"
COMPLETE_TAG = "frostline.complete"
"""Set last. A version without it was left by a crash."""
ARTIFACT_PATH = "model"
MAX_BATCH_POINTS = 1000
MAX_PARAM_LENGTH = 6000


def prepare_environment() -> None:
    """No telemetry, no progress bars, and an answer within seconds when a server is away."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


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
        with _answers(self._uri):
            for start in range(0, len(new), MAX_BATCH_POINTS):
                self._client.log_batch(self.run_id, metrics=new[start : start + MAX_BATCH_POINTS])

    def log_params(self, params: Mapping[str, object]) -> None:
        """A parameter keeps its first value; where a resumed attempt differs, a tag `resumed.<name>` says so."""
        with _answers(self._uri):
            known = self._client.get_run(self.run_id).data.params
            for name, value in params.items():
                told = str(value)[:MAX_PARAM_LENGTH]
                if name not in known:
                    self._client.log_param(self.run_id, name, told)
                elif known[name] != told:
                    self._client.set_tag(self.run_id, f"resumed.{name}", told)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file with the run, replacing one of the same name."""
        with _answers(self._uri):
            self._client.log_artifact(self.run_id, str(path), folder)

    def finish(self, status: str = "FINISHED") -> None:
        """`FINISHED`, `FAILED` or `KILLED`. A later `open_run` continues from any of them."""
        with _answers(self._uri):
            self._client.set_terminated(self.run_id, status)

    def _steps_of(self, name: str) -> set[int]:
        if name not in self._seen:
            with _answers(self._uri):
                self._seen[name] = {point.step for point in self._client.get_metric_history(self.run_id, name)}
        return self._seen[name]


def open_run(tracking_uri: str, experiment: str, fingerprint: str, tags: Mapping[str, str]) -> TrainingRun:
    """The training run of this fingerprint: continued where it exists, also after a crash; else begun."""
    client = _client(tracking_uri)
    with _answers(tracking_uri):
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


@dataclass(frozen=True)
class ModelVersion:
    """A registry entry. `version` is text whatever the backend's type."""

    name: str
    version: str
    run_id: str
    source_uri: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def is_complete(self) -> bool:
        return self.tags.get(COMPLETE_TAG) == "true"


class Registry:
    """Model versions and aliases of one MLflow."""

    def __init__(self, tracking_uri: str) -> None:
        self.uri = tracking_uri
        self._client = _client(tracking_uri)

    def register_version(
        self, name: str, model_digest: str, run_id: str, folder: Path, tags: Mapping[str, str]
    ) -> ModelVersion:
        """The version of `name` that holds this model; `folder` (see `write_pyfunc`) is uploaded if there is none.

        One that a crash left half-made is completed, or replaced where it points elsewhere.
        """
        with _answers(self.uri):
            self._ensure_model(name)
            known = self._versions(name, model_digest)
            complete = [version for version in known if version.is_complete]
            if complete:
                return complete[0]
            source_uri = f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT_PATH}"
            self._client.log_artifacts(run_id, str(folder), ARTIFACT_PATH)
            if not any(version.source_uri == source_uri for version in known):
                for version in known:
                    self._client.delete_model_version(name, version.version)
                made = self._client.create_model_version(
                    name, source_uri, run_id, tags={**tags, DIGEST_TAG: model_digest}
                )
                # Whoever registers the same model at this moment keeps the lowest number too.
                first = self._versions(name, model_digest)[0]
                if first.version != str(made.version):
                    self._client.delete_model_version(name, str(made.version))
            first = self._versions(name, model_digest)[0]
            self._client.set_model_version_tag(name, first.version, COMPLETE_TAG, "true")
            return self.version(name, first.version)

    def describe(self, version: ModelVersion, description: str) -> None:
        with _answers(self.uri):
            self._client.update_model_version(version.name, version.version, description)

    def find_version(self, name: str, model_digest: str) -> ModelVersion | None:
        """The complete version that holds this model."""
        with _answers(self.uri):
            return next((found for found in self._versions(name, model_digest) if found.is_complete), None)

    def version(self, name: str, version: str) -> ModelVersion:
        with _answers(self.uri):
            return _told(self._client.get_model_version(name, version))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, oldest first."""
        with _answers(self.uri):
            return self._versions(name)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → version; empty where the model does not exist. (A search for versions returns no aliases.)"""
        from mlflow.exceptions import MlflowException

        with _answers(self.uri):
            try:
                found = self._client.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
            return {alias: str(version) for alias, version in sorted(found.items())}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with _answers(self.uri):
            self._client.set_registered_model_alias(name, alias, version)

    def delete_alias(self, name: str, alias: str) -> None:
        with _answers(self.uri):
            self._client.delete_registered_model_alias(name, alias)

    def resolve(self, model_uri: str) -> ModelVersion:
        """`models:/name/version` or `models:/name@alias`."""
        parsed = urlparse(model_uri)
        name, at, alias = parsed.path.strip("/").partition("@")
        name, slash, number = (name, "", "") if at else name.rpartition("/")
        if parsed.scheme != "models" or not name or not (alias or number):
            raise ConfigError(
                f"model {model_uri!r} was found; expected models:/NAME/VERSION or models:/NAME@ALIAS. "
                "`frostline status` lists both."
            )
        if at and alias not in (known := self.aliases(name)):
            told = ", ".join(known) or "no alias"
            raise ConfigError(f"{model_uri}: the alias {alias!r} was not found; expected one that is set: {told}.")
        return self.version(name, self.aliases(name)[alias] if at else number)

    def download(self, version: ModelVersion, folder: Path) -> Path:
        """The version's files, copied into `folder`. Nothing in them is executed."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        folder.mkdir(parents=True, exist_ok=True)
        with _answers(self.uri):
            uri = self._client.get_model_version_download_uri(version.name, version.version)
            repository = get_artifact_repository(uri, tracking_uri=self.uri, registry_uri=self.uri)
            return Path(repository.download_artifacts("", dst_path=str(folder)))

    def _versions(self, name: str, model_digest: str | None = None) -> list[ModelVersion]:
        wanted = f"name = '{name}'"
        if model_digest:
            wanted += f" and tags.`{DIGEST_TAG}` = '{model_digest}'"
        found: list[ModelVersion] = []
        page = self._client.search_model_versions(wanted, max_results=1000)
        while True:
            found += [_told(version) for version in page]
            if not page.token:
                return sorted(found, key=lambda version: int(version.version))
            page = self._client.search_model_versions(wanted, max_results=1000, page_token=page.token)

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _told(found: Any) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), found.run_id or "", found.source or "", dict(found.tags))


def _client(tracking_uri: str) -> MlflowClient:
    scheme = urlparse(tracking_uri).scheme
    if scheme not in ("sqlite", "http", "https"):
        raise ConfigError(
            f"MLflow tracking URI {tracking_uri!r} was found; expected sqlite:///PATH, http://… or https://…. "
            "For another database start `mlflow server --backend-store-uri …` in front of it."
        )
    prepare_environment()
    from mlflow.tracking import MlflowClient

    with _answers(tracking_uri):
        if scheme == "sqlite":
            _ensure_database(tracking_uri)
        return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def _sqlite_path(tracking_uri: str) -> Path:
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def _ensure_database(tracking_uri: str) -> None:
    """Create the database beside its place and link it there: a start that is killed half way through
    MLflow's migrations, or two starts at once, would leave a database that no later start can open."""
    path = _sqlite_path(tracking_uri)
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}.db"
    try:
        SqlAlchemyStore(f"sqlite:///{temporary}", (path.parent / "artifacts").as_uri()).engine.dispose()
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)


def _experiment_id(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """On SQLite artifacts are given a place; MLflow's own default is the working directory."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        on_disk = tracking_uri.startswith("sqlite:")
        place = (_sqlite_path(tracking_uri).parent / "artifacts").as_uri() if on_disk else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    assert found is not None, "an experiment that exists already can be read"
    return str(found.experiment_id)


@contextmanager
def _answers(tracking_uri: str) -> Iterator[None]:
    """MLflow's own exceptions become one sentence with a remedy."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except FrostlineError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        parsed = urlparse(tracking_uri)
        shown = parsed._replace(netloc=parsed.netloc.rpartition("@")[2]).geturl()
        raise PlatformError(
            f"MLflow at {shown} answered: {reason}; expected it to be reachable. Start it (`mlflow server`) or correct "
            "MLFLOW_TRACKING_URI, then start again: work done so far is kept."
        ) from error
