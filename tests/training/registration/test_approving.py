"""A person's word under `promotion.approval: required`, against a real MLflow on SQLite and a real store."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from registering import RULE, Places

from infra.errors import ConfigError
from infra.outputs import take_back
from training.approving import approve, refuse
from training.candidate import ModelPlace
from training.ledger import head, history
from training.notices import notices
from training.promoting import promote, rollback
from training.register import RegisterNames, register_request

ASKED = RULE.model_copy(update={"approval": "required"})


@pytest.fixture
def place(places: Places, world: Any) -> ModelPlace:
    return ModelPlace(world.store, places.registry, places.model_name)


def served(place: ModelPlace) -> list[tuple[str, str]]:
    return [(entry.kind, entry.version) for entry in history(place.store, place.model_name)]


def test_a_model_that_passes_waits_and_serves_once_it_is_approved(
    world: Any, places: Places, place: ModelPlace
) -> None:
    made = places.decided(world, ASKED)
    assert made.facts["promotion"]["case"] == "awaits_approval"
    assert (places.aliases, head(place.store, place.model_name)) == ({"challenger": "1"}, None)
    assert [(notice.kind, notice.version) for notice in notices(place.store, place.model_name)] == [
        ("awaits_approval", "1")
    ]
    assert approve(place, "challenger", "looked at it").changed
    assert (places.aliases, served(place)) == ({"champion": "1"}, [("approved", "1")])
    entry = head(place.store, place.model_name)
    assert entry is not None and entry.reasons[-1] == "approved by a person: looked at it"
    assert not approve(place, "1", None).changed
    again, reused = places.register(world, ASKED)
    assert reused and again == made


def test_a_better_one_waits_beside_the_champion_and_can_be_rolled_back_once_approved(
    world: Any, places: Places, place: ModelPlace
) -> None:
    places.decided(world.trained(1))
    made = places.decided(world.trained(5), ASKED)
    assert made.facts["promotion"]["case"] == "awaits_approval"
    assert places.aliases == {"champion": "1", "challenger": "2"}
    approve(place, "2", None)
    assert places.aliases == {"champion": "2", "previous": "1"}
    rollback(place, None)
    assert served(place) == [("promotion", "1"), ("approved", "2"), ("rollback", "1")]


def test_a_refused_one_challenges_no_more_and_is_promoted_by_force_only(
    world: Any, places: Places, place: ModelPlace
) -> None:
    places.decided(world, ASKED)
    assert refuse(place, "challenger", "invents names").changed
    assert (places.aliases, served(place)) == ({}, [])
    for decide in (approve, refuse):
        with pytest.raises(ConfigError, match="no version waits for approval"):
            decide(place, "challenger", None)
    assert not refuse(place, "1", None).changed
    assert [notice.kind for notice in notices(place.store, place.model_name)] == ["awaits_approval", "refused_by_hand"]
    with pytest.raises(ConfigError, match=r"it was refused at 20.* \(invents names\)"):
        approve(place, "1", None)
    with pytest.raises(ConfigError, match=r"a person refused it \(invents names\).*--force"):
        promote(place, "1", None, force=False)
    _forget_the_decision(world, places)
    again, reused = places.register(world, ASKED)
    assert not reused and again.facts["promotion"]["case"] == "refused", "made anew, the word still stands"
    assert places.aliases == {}
    assert promote(place, "1", None, force=True).changed


def test_a_refused_one_stays_refused_beside_another_champion(world: Any, places: Places, place: ModelPlace) -> None:
    for seed in (1, 5):
        places.decided(world.trained(seed))
    refused = world.trained(9)
    assert places.decided(refused, ASKED).facts["promotion"]["case"] == "awaits_approval"
    refuse(place, "3", "invents names")
    rollback(place, None)
    again, reused = places.register(refused, ASKED)
    assert (reused, again.facts["promotion"]["case"]) == (False, "refused")
    without_approval, _ = places.register(refused)
    assert without_approval.facts["promotion"]["case"] == "refused"
    assert places.aliases == {"champion": "1"}
    with pytest.raises(ConfigError, match=r"a person refused it \(invents names\).*--force"):
        promote(place, "3", None, force=False)


def test_one_that_serves_is_not_refused_but_rolled_back(world: Any, places: Places, place: ModelPlace) -> None:
    places.decided(world, ASKED)
    promote(place, "1", None, force=False)
    with pytest.raises(ConfigError, match=r"it serves \(entry 1, promoted_by_hand\).*`frostline rollback`"):
        refuse(place, "1", None)
    assert places.aliases == {"champion": "1"}


def _forget_the_decision(world: Any, places: Places) -> None:
    """As --force register does."""
    names = RegisterNames("tiny", places.model_name, "here")
    take_back(world.store, register_request(ASKED, names, world.parts.train, world.evaluation, world.store))


def test_what_waits_for_nobody_is_neither_approved_nor_refused(world: Any, places: Places, place: ModelPlace) -> None:
    places.decided(world)
    places.decided(world.trained(1))  # loses
    for decide in (approve, refuse):
        with pytest.raises(ConfigError, match=r"it waits for nobody's approval .*'loses'"):
            decide(place, "2", None)
    assert places.aliases == {"champion": "1", "challenger": "2"}


def test_one_that_was_compared_with_a_former_champion_is_not_approved(
    world: Any, places: Places, place: ModelPlace
) -> None:
    places.decided(world.trained(1))
    places.decided(world.trained(5), ASKED)
    places.decided(world)
    promote(place, "3", None, force=False)  # meanwhile
    with pytest.raises(ConfigError, match=r"the gate compared it with the champion .* and the champion .* serves now"):
        approve(place, "2", None)
    assert served(place) == [("promotion", "1"), ("promoted_by_hand", "3")]


def test_of_many_who_decide_at_once_one_word_stands(world: Any, places: Places, place: ModelPlace) -> None:
    places.decided(world, ASKED)

    def decide(number: int) -> str:
        try:
            (approve if number % 2 else refuse)(place, "1", str(number))
        except ConfigError as error:
            assert "expected nobody to have decided yet" in str(error)
            return "too late"
        return "approved" if number % 2 else "refused"

    with ThreadPoolExecutor(8) as pool:
        words = set(pool.map(decide, range(8))) - {"too late"}
    assert len(words) == 1
    assert served(place) == ([("approved", "1")] if words == {"approved"} else [])


def test_an_approval_that_stopped_before_the_ledger_is_finished_by_the_next_one(
    world: Any, places: Places, place: ModelPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = places.decided(world, ASKED)
    with monkeypatch.context() as dying:
        dying.setattr("training.approving.enter", _die)
        with pytest.raises(KeyboardInterrupt):
            approve(place, "1", "looked at it")
    assert served(place) == []
    with pytest.raises(ConfigError, match=r"it was approved at 20.* \(looked at it\)"):
        refuse(place, "1", None)
    approve(replace(place), "1", None)
    entry = head(place.store, place.model_name)
    assert entry is not None and entry.register_fingerprint == made.fingerprint
    assert entry.reasons[-1] == "approved by a person: looked at it"


def _die(*_: Any) -> None:
    raise KeyboardInterrupt
