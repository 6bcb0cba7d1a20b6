"""Two retrains of one model, by the recipe's `overlap`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from flows.claiming import at_work, claimed
from flows.recipe import Recipe, load_recipe
from infra.errors import Held
from infra.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "recipes" / "tiny.yaml"
RETRAIN = """
import sys, time
from flows.claiming import claimed
from flows.opened import open_workspace
from flows.recipe import load_recipe
from infra.errors import Interrupted
from infra.progress import Silent

workspace = open_workspace("laptop", Silent(), sys.argv[1])
try:
    with claimed(load_recipe(sys.argv[2]), workspace, lambda told: print(told, flush=True)):
        print("held", flush=True)
        time.sleep(60)
except Interrupted as why:
    print(why, flush=True)
"""


@pytest.fixture
def other(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    store = workspace.store.uri.removeprefix("file://")
    process = subprocess.Popen(
        [sys.executable, "-c", RETRAIN, store, str(TINY)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def tiny(overlap: Literal["queue", "skip", "replace"]) -> Recipe:
    return load_recipe(str(TINY), [f"overlap={overlap}"])


def test_skip_leaves_the_work_to_the_other(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    with pytest.raises(Held, match=f"retrain of tiny on .*pid {other.pid}"), claimed(tiny("skip"), workspace, print):
        pass


@pytest.mark.timeout(120)
def test_replace_stops_the_other_as_ctrl_c_does_and_goes_on(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    told: list[str] = []
    with claimed(tiny("replace"), workspace, told.append) as holding:
        assert holding.claim is not None
        assert holding.claim.number == 2
        assert other.stdout is not None
        assert f"asked to end, for retrain of tiny on {os.uname().nodename} (pid {os.getpid()})" in other.stdout.read()
    assert "asked it to end" in told[0]


def test_another_model_is_not_in_the_way(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    recipe = load_recipe(str(TINY), ["model_name=another", "overlap=skip"])
    with claimed(recipe, workspace, print) as holding:
        assert holding.claim is not None
        assert holding.claim.number == 1
    assert other.poll() is None


def test_status_tells_who_is_at_work_until_it_has_ended(workspace: Workspace, other: subprocess.Popen[str]) -> None:
    (told,) = at_work(workspace.store)
    assert told["holder"].startswith("retrain of tiny on ")
    assert f"pid {other.pid}" in told["holder"]
    other.kill()
    other.wait()
    assert at_work(workspace.store) == []
