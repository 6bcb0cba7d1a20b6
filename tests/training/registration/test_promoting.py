"""`promote` and `rollback` against a real MLflow on SQLite and a real store."""

import pytest
from registered_model import Model

from infra.errors import ConfigError
from training.ledger import head, history
from training.promoting import rollback


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
