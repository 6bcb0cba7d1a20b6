"""A run whose registration is reused does what an earlier one left to do about its model."""

from contextlib import suppress
from dataclasses import replace

import pytest
from receiver import Receiver, receiving
from registered_model import Model, decision

from flows.concluding import conclude
from flows.summary import StepResult
from infra.settings import Settings
from infra.tracking import Registry
from training.promoting import promote

REUSED = StepResult(name="register", reused=True, seconds=0, rows=1, fingerprint="f", output_uri="u")


def run_again(model: Model, asks_mlflow: bool, settings: Settings | None = None) -> list[str]:
    """Its warnings."""
    facts = {"name": model.place.model_name, "version": "1", "aliases": [], "uri": "models:/m/1", "digest": "d"}
    outputs = {"register": decision({}, {"model": facts})}
    workspace = replace(model.workspace, settings=settings or model.workspace.settings)
    return conclude([REUSED], outputs, workspace, asks_mlflow).warnings


class DyingRegistry(Registry):
    def set_alias(self, *_: str) -> None:
        raise KeyboardInterrupt


def promoted_by_one_that_died(model: Model) -> None:
    """After the ledger's entry, and before the aliases."""
    model.add()
    with suppress(KeyboardInterrupt):
        promote(replace(model.place, registry=DyingRegistry(model.place.registry.uri)), "1", None, force=False)
    assert (len(model.told), model.aliases) == (1, {})


@pytest.mark.parametrize("asks_mlflow", [False, True])
def test_what_a_crash_left_behind_is_set_and_told(
    model: Model, monkeypatch: pytest.MonkeyPatch, asks_mlflow: bool
) -> None:
    promoted_by_one_that_died(model)
    with receiving() as receiver:
        configure(receiver, monkeypatch)
        assert run_again(model, asks_mlflow) == []
        assert (model.aliases, len(receiver.got)) == ({"champion": "1"}, 1)
        files = sorted(model.store_folder.rglob("*"))
        assert run_again(model, asks_mlflow) == []
    assert (sorted(model.store_folder.rglob("*")), len(receiver.got)) == (files, 1)


def configure(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROSTLINE_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("FROSTLINE_WEBHOOK_SECRET", "between us")


def test_a_champion_whom_a_person_chose_is_entered_where_mlflow_is_asked(model: Model) -> None:
    model.add(), model.add()
    model.promote("1")
    model.move("2")
    assert (run_again(model, asks_mlflow=False), len(model.told)) == ([], 1)
    assert run_again(model, asks_mlflow=True) == []
    assert model.told[1:] == [("alias_moved_by_hand", "2", "1")]


def test_an_mlflow_that_is_away_is_a_warning(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted_by_one_that_died(model)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Settings(var_dir=model.workspace.settings.var_dir, MLFLOW_TRACKING_URI="http://127.0.0.1:9")  # type: ignore[call-arg]  # named as its variable
    (warning,) = run_again(model, asks_mlflow=False, settings=away)
    assert (
        "whether MLflow's aliases follow the ledger is not known. MLflow at http://127.0.0.1:9 cannot be reached"
        in warning
    )
