"""Commands about who serves that only read."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import promotions
from flows.promotions import compare_command, export_command, history_command, rollback_command
from infra.errors import ConfigError, IntegrityError
from infra.settings import Settings
from infra.store import open_store
from infra.tracking import Registry, open_run
from infra.tracking.registry import DIGEST_TAG
from training.ledger import Kind, LedgerEntry, append_entry
from training.promoting import Change

WHY = "rouge_l is 0.5121 against the champion's 0.5010 on 1000 examples of 250 images: a gain of +0.0111"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Two versions of `m`. The ledger says that the first serves, MLflow the second, as after a crash."""
    monkeypatch.setenv("FROSTLINE_VAR_DIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made, folder = Registry(Settings().mlflow), tmp_path / "model"
    folder.mkdir()
    (folder / "file").touch()
    for digest in ("a" * 64, "b" * 64):
        run = open_run(made.uri, "m", digest, {})
        made.register_version("m", digest, run.run_id, folder, {DIGEST_TAG: digest})
    entry = LedgerEntry(
        number=1, kind="promotion", model_digest="a" * 64, version="1", previous_version=None,
        train_fingerprint="t", register_fingerprint=None, inputs={}, reasons=[WHY, "and so on"],
    )  # fmt: skip
    assert append_entry(open_store(Settings().store), "m", entry) is not None
    made.set_alias("m", "champion", "2")
    yield made
    logging.disable(logging.NOTSET)  # a command turns it off for the end of its process


def test_history_compare_and_export_change_neither_ledger_nor_aliases_nor_tell_anybody(
    registry: Registry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted((tmp_path / "store").rglob("*"))
    history_command("m", None, as_json=True)
    told = json.loads(capfd.readouterr().out)
    (entry,) = told["entries"]
    assert (entry["version"], entry["reasons"]) == ("1", [WHY, "and so on"])
    assert "the alias champion is on version 2, by the ledger it is on version 1" in told["warnings"][0]
    history_command("m", None, as_json=False)
    shown = capfd.readouterr()
    assert "warning: m: the alias champion is on version 2" in shown.err
    assert entry["decided_at"] in shown.out and "- rouge_l is 0.5121" in shown.out and "- and so on" in shown.out
    with pytest.raises(ConfigError, match="holds no evaluation of it"):
        compare_command("m", "1", "2", None, as_json=True)
    with pytest.raises(IntegrityError, match="found no tag"):
        export_command("models:/m/1", tmp_path / "exported", None, as_json=True)
    assert sorted((tmp_path / "store").rglob("*")) == before
    assert registry.aliases("m") == {"champion": "2"}


@pytest.mark.parametrize(("kind", "back"), [("rollback", "promote m 2"), ("promoted_by_hand", "rollback m")])
def test_the_way_back_after_a_change_is_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: Kind, back: str
) -> None:
    entry = LedgerEntry(
        number=2, kind=kind, model_digest="a" * 64, version="1", previous_version="2",
        train_fingerprint="t", register_fingerprint=None, inputs={}, reasons=["because"],
    )  # fmt: skip
    monkeypatch.setattr(promotions, "rollback", lambda *_: Change(entry, changed=True))
    rollback_command("m", None, None, as_json=False)
    assert f"back: frostline {back}   all changes: frostline history m" in capfd.readouterr().out
