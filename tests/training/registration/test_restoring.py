"""MLflow is lost; all that it held of a model comes back from the store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registered_model import decision
from registering import RULE, Places

from infra.errors import ConfigError
from infra.outputs import manifest_key
from infra.tracking import COMPLETE_TAG, DIGEST_TAG, Registry
from training.approving import approve, refuse
from training.archive import Restoration, restore
from training.candidate import ModelPlace, read_candidate
from training.predictor import Predictor, fetch_package


@pytest.fixture
def place(places: Places, world: Any) -> ModelPlace:
    return ModelPlace(world.store, places.registry, places.model_name)


@pytest.fixture
def emptied(place: ModelPlace, tmp_path: Path) -> ModelPlace:
    """The same store beside an MLflow that knows nothing."""
    return replace(place, registry=Registry(f"sqlite:///{tmp_path}/emptied/mlflow.db"))


def came_back(restored: Restoration) -> list[tuple[str, bool]]:
    return [(one.version.version, one.was_there) for one in restored.versions]


def tags_of(place: ModelPlace, version: str) -> dict[str, str]:
    return dict(place.registry.version(place.model_name, version).tags)


def test_every_version_comes_back_as_it_was_with_the_aliases_of_the_ledger(
    world: Any, places: Places, place: ModelPlace, emptied: ModelPlace, tmp_path: Path
) -> None:
    for seed in (1, 5):
        places.decided(world.trained(seed))
    places.decided(world)  # challenges
    assert places.aliases == {"champion": "2", "previous": "1", "challenger": "3"}
    restored = restore(emptied, places.workspace.cache)
    assert (came_back(restored), restored.faults) == ([("1", False), ("2", False), ("3", False)], [])
    assert emptied.registry.aliases(place.model_name) == places.aliases
    for version in ("1", "2", "3"):
        assert tags_of(emptied, version) == tags_of(place, version)
        assert tags_of(emptied, version)[COMPLETE_TAG] == "true"
        read_candidate(emptied, emptied.registry.version(place.model_name, version))
    again = restore(emptied, places.workspace.cache)
    assert all(one.was_there for one in again.versions)
    assert len(emptied.registry.versions(place.model_name)) == 3

    fetched = fetch_package(emptied.registry, restored.versions[1].version, tmp_path / "fetched")
    Predictor.load(fetched, tmp_path / "cache", world.store)


def test_what_waits_for_approval_waits_again_and_can_be_approved(
    world: Any, places: Places, place: ModelPlace, emptied: ModelPlace
) -> None:
    asked = RULE.model_copy(update={"approval": "required"})
    places.decided(world, asked)
    restore(emptied, places.workspace.cache)
    assert emptied.registry.aliases(place.model_name) == {"challenger": "1"}
    approve(emptied, "challenger", None)
    assert emptied.registry.aliases(place.model_name) == {"champion": "1"}


def test_what_a_person_refused_comes_back_without_an_alias(
    world: Any, places: Places, place: ModelPlace, emptied: ModelPlace
) -> None:
    places.decided(world, RULE.model_copy(update={"approval": "required"}))
    refuse(place, "challenger", None)
    (restored,) = restore(emptied, places.workspace.cache).versions
    assert (restored.version.version, emptied.registry.aliases(place.model_name)) == ("1", {})


def test_a_model_that_nobody_decided_about_a_decision_without_files_and_a_lost_training_are_told(
    world: Any, places: Places, place: ModelPlace, emptied: ModelPlace
) -> None:
    with pytest.raises(ConfigError, match=r"no decision about a model .* was found"):
        restore(emptied, places.workspace.cache)
    made = places.decided(world)
    world.store.delete(manifest_key("train", world.parts.train.fingerprint))
    (fault,) = restore(emptied, places.workspace.cache).faults
    assert "version 1 came from a training that" in fault
    old = decision({**made.inputs, "model_digest": "0" * 64}, {**made.facts})
    world.store.delete(manifest_key("register", made.fingerprint))
    world.store.create(manifest_key("register", old.fingerprint), old.model_dump_json().encode())
    (fault,) = restore(emptied, places.workspace.cache).faults
    assert "an earlier Frostline made it" in fault and "--force register" in fault


def test_a_version_that_is_lost_keeps_no_other_from_coming_back(
    world: Any, places: Places, place: ModelPlace, emptied: ModelPlace
) -> None:
    first = world.trained(1)
    for each in (first, world.trained(5)):
        places.decided(each)
    world.store.delete(manifest_key("train", first.parts.train.fingerprint))
    world.store.create(manifest_key("register", "0" * 64), b"damaged, of whatever model")
    restored = restore(emptied, places.workspace.cache)
    damaged, lost = restored.faults
    assert "not a manifest" in damaged and "version 1 came from a training that" in lost
    assert [one.version.tags[DIGEST_TAG] for one in restored.versions] == [
        place.registry.version(place.model_name, "2").tags[DIGEST_TAG]
    ]
    assert emptied.registry.aliases(place.model_name) == {"champion": restored.versions[0].version.version}
