"""Reaching MLflow: environment, client, database file, errors."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from infra.addresses import without_password
from infra.errors import ConfigError, FrostlineError, PlatformError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def prepare_environment() -> None:
    """No telemetry, no progress bars, and an answer within seconds when a server is away."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def open_client(tracking_uri: str) -> MlflowClient:
    scheme = urlparse(tracking_uri).scheme
    if scheme not in ("sqlite", "http", "https"):
        raise ConfigError(
            f"MLflow tracking URI {without_password(tracking_uri)!r} was found; expected sqlite:///PATH, http://… or "
            "https://…. For another database start `mlflow server --backend-store-uri …` in front of it."
        )
    prepare_environment()
    from mlflow.tracking import MlflowClient

    with answers(tracking_uri):
        if scheme == "sqlite":
            _ensure_database(tracking_uri)
        return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def sqlite_path(tracking_uri: str) -> Path:
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def _ensure_database(tracking_uri: str) -> None:
    """Create the database beside its place and link it there: a start that is killed half way through
    MLflow's migrations, or two starts at once, would leave a database that no later start can open."""
    path = sqlite_path(tracking_uri)
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


def _is_unreachable(error: BaseException) -> bool:
    """Whether no answer came at all: `requests` and the sockets below it raise an OSError for that."""
    from requests.exceptions import ConnectionError as RequestsConnectionError

    link: BaseException | None = error
    while link is not None and not isinstance(link, ConnectionError | RequestsConnectionError):
        link = link.__cause__ or link.__context__
    return link is not None


@contextmanager
def answers(tracking_uri: str) -> Iterator[None]:
    """MLflow's own exceptions become one sentence with a remedy."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except FrostlineError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if _is_unreachable(error):
            raise PlatformError(
                f"MLflow at {without_password(tracking_uri)} cannot be reached; expected it to answer. Start it "
                "(`frostline up`, or `mlflow server`), or unset MLFLOW_TRACKING_URI (SQLite under var then), and "
                "start again: what a run has done is kept."
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PlatformError(
            f"MLflow at {without_password(tracking_uri)} answered: {without_password(reason)[:300]}; expected it to "
            "do what was asked. Look at its log and its database, or correct MLFLOW_TRACKING_URI, then start again: "
            "work done so far is kept."
        ) from error
