"""`frostline serve` before anything is loaded: settings, token, faults that are told at once."""

import socket
import subprocess
from pathlib import Path

import pytest
from tiny_run import FROSTLINE, environment_of

from flows.serve_command import parse_settings, read_token
from infra.errors import ConfigError


def test_settings_are_set_by_name_and_those_of_the_profile_left_alone() -> None:
    found = parse_settings(["replicas.max_replicas=3", "limits.max_body_bytes=1000", "profile.ray.num_cpus=1"])
    assert (found.replicas.max_replicas, found.limits.max_body_bytes) == (3, 1000)


@pytest.mark.parametrize("text", ["replicas.max_batches=3", "limits.max_pixels=64000001", "replicas.min_replicas=2"])
def test_what_cannot_be_set_is_told(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_settings([text])


def test_the_token_comes_from_the_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token(None) is None
    monkeypatch.setenv("FROSTLINE_SERVE_TOKEN", "of-the-environment\n")
    assert read_token(None) == "of-the-environment"
    (tmp_path / "token").write_text("of-the-file-which-counts\n")
    assert read_token(tmp_path / "token") == "of-the-file-which-counts"


@pytest.mark.parametrize("content", ["", "short", "with a space in the middle", "nicht-ganz-ascii-äöü"])
def test_a_token_that_is_guessed_soon_or_never_sent_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match="token"):
        read_token(tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot read"):
        read_token(tmp_path / "nowhere")


def refused(arguments: list[str], var: Path, port: int = 0) -> str:
    command = [FROSTLINE, "serve", "models:/nobody@champion", "--port", str(port), *arguments]
    done = subprocess.run(command, env=environment_of(var), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_server_for_others_without_a_token_does_not_start(tmp_path: Path) -> None:
    assert "expected a token" in refused(["--host", "0.0.0.0"], tmp_path)


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_before_an_engine_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be bound" in refused([], tmp_path, port)


@pytest.mark.faults
def test_a_model_that_is_not_there_is_told_before_an_engine_starts(tmp_path: Path) -> None:
    assert "nothing is registered under the name 'nobody'" in refused([], tmp_path)
