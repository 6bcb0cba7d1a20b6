"""MLflow's aliases and the ledger: what a crash left behind, what a person chose."""

import time
from dataclasses import replace

import pytest
from forge import Forge
from registered_model import Model

import training.champion
from infra.errors import IntegrityError, PlatformError
from infra.tracking import Registry
from training.champion import differences, mirror
from training.ledger import head
from training.package import TRAINABLES
from training.promoting import promote, rollback


def test_an_alias_moved_by_hand_is_entered_as_that(model: Model) -> None:
    model.add(), model.add()
    model.promote("1")
    model.move("2")
    mirror(model.place)
    mirror(model.place)
    assert model.told == [("promoted_by_hand", "1", None), ("alias_moved_by_hand", "2", "1")]
    assert model.aliases == {"champion": "2", "previous": "1"}
    # Back to the former champion: the aliases had been set since it served, so this is no crash.
    model.move("1")
    mirror(model.place)
    assert model.told[2:] == [("alias_moved_by_hand", "1", "2")]
    rollback(model.place, None)
    assert model.aliases == {"champion": "2", "previous": "1"}
    # Whoever changes the champion next looks first.
    model.add()
    model.move("3")
    model.promote("1")
    assert model.told[4:] == [("alias_moved_by_hand", "3", "2"), ("promoted_by_hand", "1", "3")]


def test_an_alias_that_was_removed_is_set_again(model: Model) -> None:
    model.add()
    model.promote("1")
    model.place.registry.delete_alias(model.place.model_name, "champion")
    mirror(model.place)
    assert (model.aliases, len(model.told)) == ({"champion": "1"}, 1)


def test_what_differs_is_told_in_words_and_left_as_it_is(model: Model) -> None:
    model.add(), model.add()
    model.move("1")
    assert "champion is on version 1, by the ledger it is on no version" in str(differences(model.place))
    model.promote("2")
    assert differences(model.place) is None
    model.move("1")
    model.place.registry.delete_alias(model.place.model_name, "previous")
    before, files = model.aliases, sorted(model.store_folder.rglob("*"))
    found = str(differences(model.place))
    assert "the alias champion is on version 1, by the ledger it is on version 2" in found
    assert "the alias previous is on no version, by the ledger it is on version 1" in found
    assert (model.aliases, sorted(model.store_folder.rglob("*"))) == (before, files)


def test_an_alias_moved_to_what_may_not_serve_is_refused_until_it_is_removed(model: Model) -> None:
    model.add()
    model.promote("1")
    altered = model.file(model.add(), f"artifacts/package/{TRAINABLES}")
    altered.write_bytes(altered.read_bytes() + b"?")
    model.move("2")
    with pytest.raises(IntegrityError, match=r"the alias champion is on version 2.*moved by hand.*Remove the alias"):
        rollback(model.place, None)
    model.place.registry.delete_alias(model.place.model_name, "champion")
    mirror(model.place)
    assert (model.aliases, len(model.told)) == ({"champion": "1"}, 1)


POINTS = ["after | ledger append | 1", "after | mirror announce | 1", "before | mirror mark | 1",
          "after | mirror mark | 1", "after | mirror withdraw | 1"]  # fmt: skip


@pytest.mark.slow
def test_a_process_killed_between_ledger_and_alias_is_repaired_by_the_next_command(model: Model, forge: Forge) -> None:
    """By SIGKILL, at each point between the entry and the end. Nothing of it is taken for a person's doing."""
    for _ in range(2):
        model.add()
    model.promote("1")
    where = (model.place.store.uri, model.place.registry.uri, model.place.model_name)
    for number, point in enumerate(POINTS):
        version = str(2 - number % 2)
        assert forge.run("promote", *where, version, FAULT_AT=f"{point} | ") == -9, point
        assert forge.run("look", *where) == 0
        entry = head(model.place.store, model.place.model_name)
        assert entry is not None and (entry.number, entry.version) == (number + 2, version)
        assert model.aliases["champion"] == version
    assert {kind for kind, _, _ in model.told} == {"promoted_by_hand"}


class Late(Registry):
    """Held up between reading the ledger and setting the alias: the rest of the world goes on."""

    def __init__(self, model: Model, world_looks: bool) -> None:
        super().__init__(model.place.registry.uri)
        self.model, self.world_looks, self.is_held_up = model, world_looks, True

    def set_alias(self, name: str, alias: str, version: str) -> None:
        held_up, self.is_held_up = self.is_held_up and alias == "champion", False
        if held_up:
            self.model.promote("3")
        super().set_alias(name, alias, version)
        if held_up and self.world_looks:
            assert self.model.aliases["champion"] == "2"
            mirror(self.model.place)


@pytest.mark.parametrize("world_looks", [False, True])
def test_a_slow_promoter_does_not_leave_its_outdated_alias_and_is_not_taken_for_a_person(
    model: Model, world_looks: bool
) -> None:
    for _ in range(3):
        model.add()
    model.promote("1")
    promote(replace(model.place, registry=Late(model, world_looks)), "2", None, force=False)
    assert model.told[1:] == [("promoted_by_hand", "2", "1"), ("promoted_by_hand", "3", "2")]
    assert model.aliases == {"champion": "3", "previous": "2"}


class Slow(Registry):
    """Its first answer takes longer than aliases may be set; meanwhile the champion changes."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.place.registry.uri)
        self.model, self.written = model, list[str]()

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.written.append(f"{alias} {version}")
        if len(self.written) == 1:
            self.model.promote("3")
            time.sleep(training.champion.SETTING_SECONDS + 0.1)
        super().set_alias(name, alias, version)


def test_a_slow_promoter_writes_no_alias_once_its_announcement_may_be_disregarded(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        model.add()
    model.promote("1")
    registry = Slow(model)
    with monkeypatch.context() as patch:
        patch.setattr(training.champion, "SETTING_SECONDS", 3)
        with pytest.raises(PlatformError, match=r"aliases were not set within 3 s"):
            promote(replace(model.place, registry=registry), "2", None, force=False)
    assert registry.written == ["champion 2"]
    mirror(model.place)
    assert model.told[1:] == [("promoted_by_hand", "2", "1"), ("promoted_by_hand", "3", "2")]
    assert model.aliases == {"champion": "3", "previous": "2"}


def test_a_living_process_is_through_before_its_announcement_is_disregarded() -> None:
    longest_answer_seconds = (1 + 2) * 60  # as `prepare_environment` sets tries and their time-outs
    assert training.champion.SETTING_SECONDS + longest_answer_seconds < training.champion.ANNOUNCED_SECONDS
