"""Real MLflow on SQLite, and once over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, PlatformError
from infra.tracking import Registry, list_models, open_run
from infra.tracking.registry import COMPLETE_TAG, DIGEST_TAG, artifact_path
from infra.tracking.server import open_client

FINGERPRINT = "f" * 64


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the file: creating it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server on loopback, on a database that exists already."""
    open_client(database)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1"]
    command += ["--artifacts-destination", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, cwd=folder, env=environment, **quiet)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: the server and its workers, nothing else
        process.wait(20)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    return folder


def test_a_resumed_run_continues_without_doubled_points(database: str) -> None:
    first = open_run(database, "points", FINGERPRINT, {"recipe": "r"})
    first.log_points([("loss", 1, 3.0), ("loss", 2, 2.0), ("rate", 1, 0.1)])
    first.log_params({"learning_rate": 0.1, "ranks": 1})
    # The process dies here: the run stays RUNNING.
    second = open_run(database, "points", FINGERPRINT, {"recipe": "r"})
    second.log_points([("loss", 2, 2.0), ("loss", 3, 1.0), ("loss", 3, 1.0), ("rate", 1, 0.1)])
    second.log_params({"learning_rate": 0.1, "ranks": 2})
    second.finish()
    assert second.run_id == first.run_id
    client = open_client(database)
    history = client.get_metric_history(first.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert len(client.get_metric_history(first.run_id, "rate")) == 1
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"learning_rate": "0.1", "ranks": "1"}
    assert run.data.tags["resumed.ranks"] == "2"


@pytest.mark.parametrize("place", ["database", pytest.param("server", marks=pytest.mark.slow)])
def test_registering_twice_gives_the_same_version(
    place: str, model_folder: Path, request: pytest.FixtureRequest
) -> None:
    uri: str = request.getfixturevalue(place)
    name, digest = f"model-{place}", "a" * 64
    run = open_run(uri, f"registering-{place}", FINGERPRINT, {})
    registry = Registry(uri)
    first = registry.register_version(name, digest, run.run_id, model_folder, {"commit": "c"})
    again = Registry(uri).register_version(name, digest, run.run_id, model_folder, {"commit": "c"})
    other = registry.register_version(name, "b" * 64, run.run_id, model_folder, {})
    assert (first.version, again.version, other.version) == ("1", "1", "2")
    assert first.tags["commit"] == "c" and first.is_complete
    registry.describe(first, "because")
    registry.set_alias(name, "champion", "1")
    registry.set_alias(name, "challenger", "2")
    registry.delete_alias(name, "challenger")
    assert registry.aliases(name) == {"champion": "1"}
    assert registry.aliases("unknown") == {}
    assert registry.find_version(name, digest) == again
    assert registry.find_version(name, "c" * 64) is None
    assert registry.resolve(f"models:/{name}@champion") == again
    assert registry.resolve(f"models:/{name}/2").version == "2"
    with pytest.raises(ConfigError, match="expected one that is set: champion"):
        registry.resolve(f"models:/{name}@staging")
    with pytest.raises(ConfigError, match=r"/9: version '9' was not found; expected one of 1, 2\."):
        registry.resolve(f"models:/{name}/9")
    for unknown in ("models:/unknown/1", "models:/unknown@champion"):
        with pytest.raises(ConfigError, match=rf"under the name 'unknown'; expected one of .*{name}"):
            registry.resolve(unknown)
    copied = registry.download(first, model_folder.parent / "copy")
    assert (copied / "weights.bin").read_bytes() == b"weights"
    listed = next(model for model in list_models(uri) if model["name"] == name)
    assert listed["versions"][0] == {"version": "1", "digest": digest, "aliases": ["champion"]}


def test_a_half_made_version_is_completed_and_gets_the_tags_of_who_completes_it(
    database: str, model_folder: Path
) -> None:
    run = open_run(database, "half", FINGERPRINT, {})
    client, registry = open_client(database), Registry(database)
    client.create_registered_model("half")
    source = f"{client.get_run(run.run_id).info.artifact_uri}/{artifact_path('half')}"
    client.create_model_version("half", source, run.run_id, tags={DIGEST_TAG: "a" * 64, "files": "old", "gone": "?"})
    assert registry.find_version("half", "a" * 64) is None
    made = registry.register_version("half", "a" * 64, run.run_id, model_folder, {"files": "new", "commit": "c"})
    told = {DIGEST_TAG: "a" * 64, "files": "new", "commit": "c", COMPLETE_TAG: "true"}
    assert (made.version, made.tags) == ("1", told)
    assert (registry.download(made, model_folder.parent / "copy") / "weights.bin").exists()


def test_a_half_made_version_that_points_elsewhere_is_replaced(database: str, model_folder: Path) -> None:
    run = open_run(database, "elsewhere", FINGERPRINT, {})
    client, registry = open_client(database), Registry(database)
    client.create_registered_model("elsewhere")
    client.create_model_version("elsewhere", "file:///nowhere", None, tags={DIGEST_TAG: "a" * 64})
    made = registry.register_version("elsewhere", "a" * 64, run.run_id, model_folder, {})
    assert [version.version for version in registry.versions("elsewhere")] == [made.version] == ["2"]


@pytest.mark.parametrize("other", ["makes it", "removes it"])
def test_an_alias_that_another_process_changes_meanwhile_is_set(other: str, database: str) -> None:
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    name = f"crossing {other}"
    client, registry = open_client(database), Registry(database)
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, "file:///nowhere", None)
    if other == "removes it":
        registry.set_alias(name, "champion", "1")

    crossings = []

    def cross(*_: object) -> None:
        """After MLflow looked for the row, before it writes its own."""
        if crossings:
            return
        crossings.append(other)
        if other == "makes it":
            client.set_registered_model_alias(name, "champion", "1")
        else:
            client.delete_registered_model_alias(name, "champion")

    event.listen(Session, "before_flush", cross)
    try:
        registry.set_alias(name, "champion", "2")
    finally:
        event.remove(Session, "before_flush", cross)
    assert crossings and registry.aliases(name) == {"champion": "2"}


def test_a_server_that_is_away_is_a_platform_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PlatformError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be reached; .* Start it") as found:
        open_run("http://user:secret@127.0.0.1:9", "e", FINGERPRINT, {})
    assert "secret" not in str(found.value)


def test_a_damaged_database_is_a_platform_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 1000)
    with pytest.raises(PlatformError, match="not a database"):
        open_run(f"sqlite:///{tmp_path}/mlflow.db", "e", FINGERPRINT, {})


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "postgresql://host/db", "./mlruns"])
def test_other_backends_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected sqlite"):
        open_run(uri, "e", FINGERPRINT, {})


@pytest.mark.parametrize("uri", ["model/1", "models:/name", "models:/", "runs:/a/b"])
def test_a_model_uri_that_is_none_is_refused(uri: str, database: str) -> None:
    with pytest.raises(ConfigError, match="expected models:/NAME/VERSION"):
        Registry(database).resolve(uri)
