"""infra/docker/Dockerfile: what a linter finds, and what it cannot know."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from deployed import BIN, PINNED, REPOSITORY

DOCKERFILE = REPOSITORY / "infra" / "docker" / "Dockerfile"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def text() -> str:
    return DOCKERFILE.read_text()


def linted(text: str) -> str:
    done = subprocess.run(
        [str(BIN / "hadolint"), "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_the_linter_finds_nothing(text: str) -> None:
    assert linted(text) == ""
    assert "DL3006" in linted(text.replace("FROM ${PYTHON_IMAGE} AS base", "FROM python AS base"))
    assert "DL3002" in linted(text.replace("USER 10001:10001", "USER root"))


def wrong_bases(text: str) -> list[str]:
    """Images that are not pinned, or whose Python is not the one that the project is checked for."""
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", text, re.M)
    stages = re.findall(r"^FROM (\S+) AS (\S+)", text, re.M)
    names = {name for _, name in stages}
    found = [image for image, _ in stages if image not in names and image != "${PYTHON_IMAGE}"]
    (minor,) = re.findall(r"^python:3\.(\d+)\.\d+-", base) or [""]
    if not PINNED.fullmatch(base) or PROJECT["tool"]["ruff"]["target-version"] != f"py3{minor}":
        found.append(base)
    return found


def test_one_pinned_base_with_the_python_that_the_project_is_checked_for(text: str) -> None:
    assert wrong_bases(text) == []
    assert wrong_bases(text.replace("python:3.11.14-slim", "python:3.13.1-slim"))
    assert wrong_bases(re.sub("@sha256:[0-9a-f]+", "", text))
    assert wrong_bases(text.replace("FROM base AS run", "FROM debian:bookworm AS run"))


def unlocked(text: str) -> list[str]:
    """Installations that may take another version than the lock's."""
    joined = text.replace("\\\n", " ")
    installs = [part for line in joined.splitlines() for part in re.split("&&", line) if "pip install" in part]
    fixed = re.compile(r"-c requirements\.lock|grep '\^torch==' requirements\.lock|==\$\{SETUPTOOLS\}|--no-deps")
    return [install.strip() for install in installs if not fixed.search(install)]


def test_every_version_is_the_locks(text: str) -> None:
    assert unlocked(text) == []
    assert unlocked(text.replace(" -c requirements.lock", ""))
    locked = {line.partition("==")[0].lower() for line in (REPOSITORY / "requirements.lock").read_text().splitlines()}
    every = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    asked = [re.match(r"[\w.-]+", each).group().lower() for each in every]
    assert [name for name in asked if name not in locked and name.replace("_", "-") not in locked] == []


def test_what_runs_has_no_build_stage_in_it_and_is_not_root(text: str) -> None:
    stages = dict(re.findall(r"^FROM (\S+) AS (\S+)", text, re.M)[::-1])
    parents = {name: image for image, name in re.findall(r"^FROM (\S+) AS (\S+)", text, re.M)}
    assert stages
    for target in ("cpu", "gpu"):
        assert (parents[target], parents["run"], parents["base"]) == ("run", "base", "${PYTHON_IMAGE}")
        assert f"COPY --from=build-{target} /opt/frostline /opt/frostline" in text
    assert text.rstrip().splitlines()[-1].startswith("COPY --from=build-cpu")  # without --target: the cpu image
    (user,) = re.findall(r"^USER (\S+)", text, re.M)
    assert user == "10001:10001"


def places(text: str) -> dict[str, str]:
    return {name: place for name, place in re.findall(r"^(?:ENV)?\s+(\w+)=(/\S+)", text, re.M) if name != "PATH"}


def test_all_that_is_written_lies_on_the_volume_or_under_tmp(text: str) -> None:
    written = places(text)
    assert {"HOME", "PREFECT_HOME", "FROSTLINE_VAR_DIR", "RAY_TMPDIR"} <= written.keys()
    assert [each for each in written.values() if not each.startswith(("/var/lib/frostline/", "/tmp"))] == []
    assert 'VOLUME ["/var/lib/frostline"]' in text


def test_what_is_built_at_its_first_use_lies_where_it_may_be_executed(text: str) -> None:
    """Not on the tmpfs at /tmp, which Docker mounts without `exec`."""
    built = {
        name: places(text)[name] for name in ("TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    assert [each for each in built.values() if not each.startswith("/var/lib/frostline/")] == []


def test_torch_builds_what_it_compiles_where_its_variable_says(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    place = places(text)["TORCHINDUCTOR_CACHE_DIR"].replace("/var/lib/frostline", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", place)
    assert cache_dir() == place


def test_only_what_runs_is_sent_to_the_builder() -> None:
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule[0] == "!"}
    packages = {found.removesuffix("*") for found in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= sent
    assert not sent & {"tests", "var", "shared", ".git", ".env"}
    assert "infra/secrets" in rules  # inside a folder that is sent
    assert [name for name in sent if not Path(REPOSITORY, name).exists()] == []
