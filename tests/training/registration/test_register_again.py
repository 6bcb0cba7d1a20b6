"""The step after a crash, and after others changed the champion."""

import json
from typing import Any

import pytest
from registering import RULE, Places

import training.register
import training.version
from infra.errors import PlatformError
from infra.outputs import Attempt
from training.candidate import ModelPlace
from training.ledger import history
from training.promoting import promote, rollback
from training.register import RegisterNames, Registration, register, register_request


@pytest.mark.parametrize("place", ["ensure_version", "check_answers", "append_entry", "_set_aliases"])
def test_a_crash_is_repaired_by_the_next_start(
    world: Any, places: Places, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies right after each part in turn; the output is that of an undisturbed start."""
    module = training.version if hasattr(training.version, place) else training.register
    real = getattr(module, place)

    def dies(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, place, dies)
        with pytest.raises(KeyboardInterrupt):
            places.register(world)
    made, reused = places.register(world)
    assert not reused
    assert made.facts["promotion"]["case"] == "no_champion"
    assert places.aliases == {"champion": "1"}
    assert len(history(world.store, places.model_name)) == 1
    assert len(places.registry.versions(places.model_name)) == 1
    comparison = json.loads(places.workspace.cache.path("register", made.parts[0]).read_bytes())
    assert comparison["promotion"]["promoted"] and comparison["champion_metrics"] is None


def test_a_champion_that_changed_meanwhile_stops_the_decision(world: Any, places: Places) -> None:
    request = register_request(
        RULE, RegisterNames("tiny", places.model_name, "here"), world.parts.train, world.evaluation, world.store
    )
    registration = Registration(RULE, places.model_name, world.parts, world.evaluation, None)
    places.register(world.trained(1))
    with pytest.raises(PlatformError, match="another champion than a moment ago; expected no champion"):
        register(registration, Attempt(world.store, request), places.workspace)
    assert places.aliases == {"champion": "1"}


def commit_training(world: Any) -> Any:
    train = world.parts.train
    world.store.create(f"train/{train.fingerprint}/manifest.json", train.model_dump_json().encode())
    return world


def test_a_model_meets_the_champion_that_a_person_chose_in_mlflow(world: Any, places: Places) -> None:
    places.register(commit_training(world))
    places.register(commit_training(world.trained(1)))
    places.registry.set_alias(places.model_name, "champion", "2")
    better = world.trained(5)
    with pytest.raises(PlatformError, match="Start again: only the decision is made anew"):
        places.register(better)
    made, _ = places.register(better)
    assert made.inputs["champion_digest"] == digest_of(places, "2")
    assert [entry.kind for entry in history(world.store, places.model_name)] == [
        "promotion", "alias_moved_by_hand", "promotion",
    ]  # fmt: skip
    assert places.aliases == {"champion": "3", "previous": "2"}


def digest_of(places: Places, version: str) -> str:
    return str(places.registry.version(places.model_name, version).tags["model_digest"])


def test_a_rollback_stands_when_the_decision_that_it_undid_is_finished_later(
    world: Any, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between its promotion and its manifest."""
    places.register(commit_training(world))
    better = commit_training(world.trained(5))

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.register, "_set_aliases", dies)
        with pytest.raises(KeyboardInterrupt):
            places.register(better)
    rollback(ModelPlace(world.store, places.registry, places.model_name), "worse at night")
    places.register(better)
    assert [entry.kind for entry in history(world.store, places.model_name)] == ["promotion", "promotion", "rollback"]
    assert places.aliases == {"champion": "1"}


@pytest.mark.parametrize("kind", ["promoted_by_hand", "rollback"])
def test_a_champion_made_by_hand_can_be_registered_anew(world: Any, places: Places, kind: str) -> None:
    """Its output is taken back, as by `frostline run --force register`; the ledger's head names it, as another kind."""
    place = ModelPlace(world.store, places.registry, places.model_name)
    first, _ = places.register(commit_training(world))
    other = commit_training(world.trained(1 if kind == "promoted_by_hand" else 5))
    second, _ = places.register(other)
    if kind == "promoted_by_hand":
        promote(place, "challenger", None, force=False)
    else:
        rollback(place, None)
    made, model = (second, other) if kind == "promoted_by_hand" else (first, world)
    before, aliases = history(world.store, places.model_name), places.aliases
    assert (before[-1].kind, before[-1].register_fingerprint) == (kind, made.fingerprint)
    world.store.delete(f"register/{made.fingerprint}/manifest.json")
    again, reused = places.register(model)
    assert not reused and again.fingerprint == made.fingerprint
    assert history(world.store, places.model_name) == before, "who serves already is not entered once more"
    assert places.aliases == aliases
