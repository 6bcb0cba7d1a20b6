"""`frostline status` and what Prefect adds, told from outputs without a server."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from storied import four_weeks

from flows.opened import open_workspace
from flows.prefect_story import reused_by
from flows.status import read_status, show_status
from infra.progress import Silent
from infra.store import LocalStore
from training.made import OutputReader


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    four_weeks(store)
    return store


def test_status_tells_the_story_on_one_screen(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROSTLINE_VAR_DIR", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = read_status(open_workspace("laptop", Silent(), writable=False))
    shown = io.StringIO()
    show_status(Console(file=shown, width=200), found)
    text = shown.getvalue()
    assert "champion: weekly version 1, vqa_accuracy 0.580 (95 %: 0.540 to 0.620)" in text
    assert "images encoded 2,500, encodes saved 4,500" in text
    assert "accelerator seconds spent 5,581, saved 910 (Prefect: not asked: PREFECT_API_URL is not set)" in text
    assert "waits for approval: weekly version 4, since 2026-03-22T06:00:00Z" in text
    assert "2026-03-15T06:00:00Z refused by gate: weekly version 3" in text


def test_a_reused_step_saves_what_its_manifest_says_that_it_took(store: LocalStore) -> None:
    made, _ = OutputReader(store).read()
    train = next(one for one in made if one.step == "train")
    message = f"reused: made {train.made_at}, fingerprint {train.fingerprint[:12]}"
    (found,) = reused_by([message, message, "reused: made 2026, fingerprint 0123456789ab", ""], made)
    assert (found.recipe, found.step, found.times) == ("weekly", "train", 2)
    assert found.accelerator_seconds_saved == pytest.approx(2 * 4 * 300)


def test_a_step_says_itself_which_output_it_reused(store: LocalStore) -> None:
    """The message is written by the flow and read here: both by the same words."""
    from flows.plan import why_reused
    from infra.outputs import manifest_key, read_manifest

    made, _ = OutputReader(store).read()
    key = manifest_key(made[0].step, made[0].fingerprint)
    manifest = read_manifest(store, key)
    assert manifest is not None
    assert [one.times for one in reused_by([f"reused: {why_reused(manifest)}"], made)] == [1]
