"""What `frostline doctor` finds, with a remedy for each fault."""

import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from importlib.metadata import version
from pathlib import Path

import pytest
from web import Request, Web, web

from flows.doctor import examine
from infra import examination
from infra.examination import Finding
from infra.settings import Profile, Settings, load_profile


@pytest.fixture
def profile() -> Profile:
    return load_profile("laptop")


def the_one(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    assert (found.remedy is None) == (found.state == "ok")
    return found


def test_installed_versions_are_those_that_frostline_asks_for() -> None:
    assert the_one(examination.packages()).state == "ok"


def test_a_version_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "version", lambda name: "0.1" if name == "ray" else version(name))
    found = the_one(examination.packages())
    assert found.state == "fault"
    assert found.found.startswith("ray 0.1 (expected >=2.60")


@pytest.mark.parametrize(
    ("keeps", "is_there", "state"), [(True, False, "ok"), (False, True, "ok"), (False, False, "warning")]
)
def test_a_python_that_compiles_torch_anew_in_each_process_is_told(
    keeps: bool, is_there: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = tmp_path / "torch.pyc"
    if is_there:
        compiled.touch()
    monkeypatch.setattr(sys, "dont_write_bytecode", not keeps)
    monkeypatch.setattr(examination, "cache_from_source", lambda _: str(compiled))
    assert the_one(examination.bytecode()).state == state


def test_shared_memory_that_ray_cannot_have_is_a_fault(profile: Profile) -> None:
    ray = profile.ray.model_copy(update={"object_store_memory_bytes": 2**50})
    assert the_one(examination.memory(profile)).state == "ok"
    assert the_one(examination.memory(profile.model_copy(update={"ray": ray}))).state == "fault"


def test_a_profile_with_gpus_needs_some(profile: Profile) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    train = profile.train.model_copy(update={"gpus_per_rank": 1})
    states = {each.name: each.state for each in examination.processors(profile.model_copy(update={"train": train}))}
    assert states["GPUs"] == "fault"


def test_a_compiler_is_missed_where_the_profile_needs_one(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert the_one(examination.compiler(profile)).state == "ok"
    train = profile.train.model_copy(update={"compile": True})
    assert the_one(examination.compiler(profile.model_copy(update={"train": train}))).state == "fault"


def test_a_store_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    assert the_one(examination.store(Settings(store_uri=str(tmp_path / "store")))).state == "ok"
    (tmp_path / "file").write_text("in the way")
    found = the_one(examination.store(Settings(store_uri=str(tmp_path / "file" / "store"))))
    assert found.state == "fault"
    assert the_one(examination.store(Settings(store_uri="ftp://host/store"))).state == "fault"


def findings_of(server: Web) -> dict[str, Finding]:
    url = f"http://127.0.0.1:{server.server_port}"
    return {each.name: each for each in examination.server("MLflow", url, "/version", "mlflow", "Start it.")}


def test_a_server_of_another_version_and_with_another_clock_is_told() -> None:
    def other(request: Request) -> None:
        body = b"1.30.0"
        request.send_response_only(200)
        request.send_header("Date", formatdate(time.time() - 3600, usegmt=True))
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with web() as server:
        server.answers["/version"] = other
        found = findings_of(server)
        assert found["MLflow"].state == "fault"
        assert "version 1.30.0" in found["MLflow"].found
        assert f"mlflow=={version('mlflow')}" in str(found["MLflow"].remedy)
        assert "-36" in found["clock"].found
        server.answers["/version"] = lambda request: request.reply(version("mlflow").encode())
        assert {name: each.state for name, each in findings_of(server).items()} == {"MLflow": "ok"}
        server.answers["/version"] = lambda request: request.reply(b"who are you?", status=401)
        assert {name: each.state for name, each in findings_of(server).items()} == {"MLflow": "warning"}


def test_a_server_that_is_away_is_told_with_how_to_start_it() -> None:
    with web() as server:
        port = server.server_port
    found = the_one(
        examination.server("MLflow", f"http://u:secret@127.0.0.1:{port}", "/version", "mlflow", "Start it.")
    )
    assert (found.state, found.remedy) == ("fault", "Start it.")
    assert "secret" not in found.found


def test_a_place_that_cannot_be_made_is_a_fault_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FROSTLINE_VAR_DIR", str(tmp_path / "file" / "var"))
    found = list(examine("laptop", str(tmp_path / "store")))
    assert found[-1].name == "stack" and found[-1].state == "fault" and "Not a directory" in found[-1].found
    assert found[-1].remedy is not None and "FROSTLINE_VAR_DIR" in found[-1].remedy
