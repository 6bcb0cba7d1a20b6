"""SIGKILL of a real Ray actor before and after each of its durable actions: a new one takes its unit over.

Without `_lose` in infra.ray_pool the death would end the step.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crash_points import Point, recorded
from featurizing import encode
from stored_parts import noise, store_images

from data_prep import featurize as step
from data_prep.encoder import Encoder
from infra.outputs import Draft
from infra.part_cache import PartCache
from infra.settings import ActorResources
from infra.store import LocalStore
from infra.verify import verify_store
from infra.workspace import Workspace

ACTORS = ActorResources(num_actors=1, rows_per_batch=2, max_restarts=1)
SUPPORT = str(Path(__file__).parents[1] / "support")


def armed_encoder(environment: dict[str, str]) -> type[Encoder]:
    """Made in a function, so that it travels to the actor by value."""

    class Armed(Encoder):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            os.environ.update(environment)
            sys.path.insert(0, SUPPORT)
            import crash_points  # noqa: F401

            super().__init__(*arguments, **more)

    return Armed


def encoded(workspace: Workspace, folder: Path, tower: Path, environment: dict[str, str]) -> Draft:
    """The features of two shards, made in a store of their own by actors with these variables."""
    store = LocalStore(folder / "store")
    profile = workspace.profile.model_copy(update={"featurize": ACTORS})
    there = replace(workspace, profile=profile, store=store, cache=PartCache(store, folder / "cache"))
    dataset = store_images(store, [[noise(0), noise(1), noise(2)], [noise(3)]])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(step, "Encoder", armed_encoder(environment))
        made = encode(dataset, tower, there)
    assert verify_store(store).damaged == []
    assert {key.rpartition("/")[2] for key in store.list("featurize/parts")} == {part.digest for part in made.parts}
    return made.draft


def check(workspace: Workspace, folder: Path, tower: Path, chosen: Sequence[Point] | None) -> None:
    expected = encoded(workspace, folder / "undisturbed", tower, {"FAULT_RECORD": str(folder / "points")})
    points = [point for point in recorded(folder / "points") if point.side != "within"]
    assert {"upload part", "local temp close", "cache fetch", "cache stamp"} <= {point.action for point in points}
    for number, point in enumerate(points if chosen is None else chosen):
        assert point in points
        once = folder / f"once-{number}"
        draft = encoded(workspace, folder / f"{number}", tower, {"FAULT_AT": str(point), "FAULT_ONCE": str(once)})
        assert once.exists(), f"{point}: nobody died"
        assert draft == expected, str(point)


@pytest.mark.slow
def test_an_actor_killed_around_what_it_stores_loses_and_doubles_nothing(
    ray: None, tower: Path, workspace: Workspace, tmp_path: Path
) -> None:
    chosen = [Point("before", "cache stamp", 1), Point("after", "upload part", 4)]
    check(workspace, tmp_path, tower, chosen)


@pytest.mark.faults
def test_an_actor_killed_around_each_of_its_durable_actions_loses_and_doubles_nothing(
    ray: None, tower: Path, workspace: Workspace, tmp_path: Path
) -> None:
    check(workspace, tmp_path, tower, None)
