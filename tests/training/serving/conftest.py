"""One running server for all tests of a process, of the tiny recipe's model and another version of it."""

import shutil
from collections.abc import Iterator

import pytest
from running_server import Running
from served_model import ServedModel, serving
from tiny_run import TinyRun

FAST = ["--set", "poll_seconds=0.3", "--set", "limits.body_seconds=3", "--set", "limits.header_seconds=3"]


@pytest.fixture(scope="session")
def served_model(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Version 1 is champion; version 2 is there."""
    var = tmp_path_factory.mktemp("served") / "var"
    shutil.copytree(tiny_run.as_it_ended, var)
    model = ServedModel(var)
    model.add_version(1)
    return model


@pytest.fixture(scope="session")
def running(served_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(served_model, tmp_path_factory.mktemp("server") / "log", FAST) as server:
        yield Running(served_model, server, served_model.pictures())


@pytest.fixture
def picture(running: Running) -> bytes:
    return running.pictures[0]
