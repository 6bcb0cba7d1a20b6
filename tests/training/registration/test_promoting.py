"""`promote` and `rollback` against a real MLflow on SQLite and a real store."""

import os
from dataclasses import replace

import pytest
from registered_model import Model

from infra.errors import ConfigError
from infra.tracking import Registry
from training.ledger import head, history
from training.promoting import promote, rollback


def test_a_rollback_restores_the_former_champion_and_a_second_one_goes_on_backwards(model: Model) -> None:
    for version in ("1", "2", "3"):
        model.add()
        assert model.promote(version)
    assert model.aliases == {"champion": "3", "previous": "2"}
    assert not model.promote("3"), "it is the champion already"
    assert rollback(model.place, "worse at night").entry.version == "2"
    assert model.aliases == {"champion": "2", "previous": "1"}
    rollback(model.place, None)
    assert model.aliases == {"champion": "1"}
    with pytest.raises(ConfigError, match=r"there is no former champion \(version 1 is the first one\)"):
        rollback(model.place, None)
    assert model.told[3:] == [("rollback", "2", "3"), ("rollback", "1", "2")]
    reasons = history(model.place.store, model.place.model_name)[3].reasons
    assert reasons == ["rolled back from version 3, which entry 3 made champion: worse at night"]
    assert model.promote("3")
    assert model.aliases == {"champion": "3", "previous": "1"}


class Dying(Registry):
    """The process ends when it would set its nth alias, n counted from 0."""

    def __init__(self, uri: str, num_set: int) -> None:
        super().__init__(uri)
        self.left = num_set

    def set_alias(self, name: str, alias: str, version: str) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().set_alias(name, alias, version)


@pytest.mark.parametrize("num_set", [0, 1])
def test_a_rollback_that_stopped_before_its_aliases_is_finished_and_not_doubled(model: Model, num_set: int) -> None:
    for version in ("1", "2", "3"):
        model.add()
        model.promote(version)
    with pytest.raises(KeyboardInterrupt):
        rollback(replace(model.place, registry=Dying(model.place.registry.uri, num_set)), "worse at night")
    finished = rollback(model.place, "worse at night")
    assert finished.changed and model.told[3:] == [("rollback", "2", "3")]
    assert model.aliases == {"champion": "2", "previous": "1"}
    assert rollback(model.place, None).entry.version == "1", "the next one is a new one"


def test_a_person_who_chose_after_a_rollback_that_stopped_is_rolled_back(model: Model) -> None:
    for version in ("1", "2", "3"):
        model.add()
        model.promote(version)
    with pytest.raises(KeyboardInterrupt):
        rollback(replace(model.place, registry=Dying(model.place.registry.uri, 1)), None)
    age_announcements(model)
    model.move("1")
    assert rollback(model.place, None).entry.version == "2"
    assert model.told[3:] == [("rollback", "2", "3"), ("alias_moved_by_hand", "1", "2"), ("rollback", "2", "1")]


def age_announcements(model: Model) -> None:
    """As if the processes that left them had died long ago."""
    for path in (model.store_folder / "register" / "mirroring").rglob("*"):
        os.utime(path, (0, 0))


@pytest.mark.parametrize("num_set", [0, 1])
def test_a_promotion_that_stopped_before_its_aliases_is_finished_and_not_doubled(model: Model, num_set: int) -> None:
    model.add(), model.add()
    model.promote("1")
    model.place.registry.set_alias(model.place.model_name, "challenger", "2")
    with pytest.raises(KeyboardInterrupt):
        promote(replace(model.place, registry=Dying(model.place.registry.uri, num_set)), "challenger", None, False)
    promote(model.place, "challenger", None, force=False)
    assert model.told == [("promoted_by_hand", "1", None), ("promoted_by_hand", "2", "1")]
    assert model.aliases == {"champion": "2", "previous": "1"}


def test_what_the_gate_refused_or_never_saw_is_promoted_by_force_only(model: Model) -> None:
    model.add(alias=None)
    with pytest.raises(ConfigError, match=r"the gate refused it \(cider_d is below the required 0.5\).*--force"):
        model.promote("1")
    model.add(decided=False)
    with pytest.raises(ConfigError, match="the gate has not decided about this model"):
        model.promote("2")
    assert (model.told, model.aliases) == ([], {})
    assert model.promote("1", force=True)
    entry = head(model.place.store, model.place.model_name)
    assert entry is not None and entry.reasons == [
        "promoted by hand: because",
        "forced, although the gate refused it (cider_d is below the required 0.5)",
    ]


def test_a_challenger_that_serves_challenges_no_more(model: Model) -> None:
    model.add()
    model.place.registry.set_alias(model.place.model_name, "challenger", "1")
    assert model.promote("challenger")
    assert model.aliases == {"champion": "1"}
