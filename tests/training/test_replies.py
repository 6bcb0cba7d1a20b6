"""A second evaluation of a model generates what is new, and answers as if it had generated everything."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluating import CONFIG, assert_same_rows, evaluated, file_of, request_of, rows_of, units_here
from stored_parts import made_by

from flows.forget import forget
from infra.errors import IntegrityError
from infra.gc import find_garbage
from infra.outputs import Attempt, Draft, Manifest, ensure_output, part_key, take_back
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Profile, Settings
from infra.store import LocalStore
from infra.workspace import Workspace
from training.asking import BLIND, Asked, Reply, swapped
from training.evaluation_config import EvaluationConfig
from training.generation import Sampling
from training.replies import FACT, KIND, earlier_replies, told, write_replies

FIRST = 6
"""Of ten test images."""
FEW = CONFIG.model_copy(update={"max_test_images": FIRST})


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[list[Asked]]:
    return units_here(monkeypatch)


def replies_of(manifest: Manifest) -> dict[str, int]:
    found: dict[str, int] = manifest.facts["num_replies"]
    return found


def from_scratch(world: Any, config: EvaluationConfig, workspace: Workspace, folder: Path) -> list[dict[str, Any]]:
    """Rows of a store that knows everything but evaluations."""
    store = LocalStore(folder / "fresh")
    for key in workspace.store.list(""):
        if not key.startswith("evaluate/"):
            store.write(key, workspace.store.read(key) or b"")
    fresh = replace(workspace, store=store, cache=PartCache(store, folder / "fresh-cache"))
    return rows_of(evaluated(world, fresh, config)[0], fresh)


def test_a_grown_test_split_costs_the_new_texts(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace, tmp_path: Path
) -> None:
    few, _ = evaluated(trained_world, workspace, FEW)
    assert replies_of(few) == {"asked": 4 * FIRST + 2, "reused": 0}
    before = [one for unit in answered for one in unit]
    answered.clear()
    whole, reused = evaluated(trained_world, workspace)
    assert not reused
    generated = [one for unit in answered for one in unit]
    image_ids = sorted({each.image_id for each in trained_world.test_examples})
    looked = {one.image_id for one in generated if not one.image_id.startswith(BLIND)}
    assert looked == set(image_ids[FIRST:])
    assert not set(generated) & set(before)
    assert replies_of(whole) == {"asked": 4 * (10 - FIRST) + 2, "reused": 4 * FIRST}
    answered.clear()
    assert_same_rows(rows_of(whole, workspace), from_scratch(trained_world, CONFIG, workspace, tmp_path))
    assert sum(map(len, answered)) == 42


def test_other_pictures_in_the_report_and_other_swapped_images_cost_no_text_that_is_known(
    monkeypatch: pytest.MonkeyPatch, trained_world: Any, workspace: Workspace, tmp_path: Path
) -> None:
    """Here each image has been asked about each prompt already."""
    answered = units_here(monkeypatch)
    evaluated(trained_world, workspace)
    answered.clear()
    other = CONFIG.model_copy(update={"gallery_examples": 0, "control_seed": 1})
    second, reused = evaluated(trained_world, workspace, other)
    assert not reused and answered == []  # no unit, so no actor and no Ray
    assert replies_of(second) == {"asked": 0, "reused": 42}
    assert_same_rows(rows_of(second, workspace), from_scratch(trained_world, other, workspace, tmp_path))
    image_ids = [each.image_id for each in trained_world.test_examples]
    assert {row["image_id"]: row["control_image_id"] for row in rows_of(second, workspace)} == swapped(image_ids, 1)


def test_what_was_replied_is_known_bit_by_bit(trained_world: Any, workspace: Workspace, tmp_path: Path) -> None:
    replies = {
        Asked("1" * 64, "caption:"): Reply("own", -0.1 / 3),
        Asked("2" * 64, "caption:"): Reply("other", -2.0),
        Asked("1" * 64, "caption:", "likelihood", "a"): Reply(log_likelihood=-1 / 7, num_tokens=3),
        Asked("1" * 64, "", "regress"): Reply(numbers=(1 / 3, -2.0)),
    }

    def produce(attempt: Attempt) -> Draft:
        write_replies(replies, tmp_path / "replies")
        part = attempt.add_part(tmp_path / "replies", KIND, len(replies))
        return Draft(parts=[part], identity={}, facts={FACT: told(CONFIG.generation)})

    request = request_of(trained_world)
    ensure_output(workspace.store, request, produce, {})
    unknown = [Asked("3" * 64, "caption:"), Asked("1" * 64, "question:")]
    assert earlier_replies([*replies, *unknown], CONFIG.generation, request, workspace) == replies
    other = CONFIG.generation.model_copy(update={"max_new_tokens": 99})
    no_texts = {one: reply for one, reply in replies.items() if one.kind != "text"}
    assert earlier_replies(replies, other, request, workspace) == no_texts


@pytest.mark.parametrize(
    "changed", [{"max_new_tokens": 4}, {"strategy": Sampling(kind="sampling")}], ids=lambda changed: next(iter(changed))
)
def test_another_way_of_generating_reuses_no_text(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace, changed: dict[str, Any]
) -> None:
    evaluated(trained_world, workspace)
    other, _ = evaluated(trained_world, workspace, CONFIG.model_copy(update=changed))
    assert replies_of(other) == {"asked": 22, "reused": 20}, "how likely a target is does not depend on it"
    # Of several earlier evaluations, the one that fits is found.
    again, _ = evaluated(trained_world, workspace, CONFIG.model_copy(update={"gallery_examples": 1}))
    assert replies_of(again) == {"asked": 0, "reused": 42}


@pytest.mark.parametrize("of", ["train", "features"])
def test_another_model_or_other_features_reuse_nothing(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace, of: str
) -> None:
    evaluated(trained_world, workspace)
    name = {"train": "model_digest", "features": "encoder_key"}[of]
    before = getattr(trained_world, of)
    after = made_by(before.step, before.parts, {**before.identity, name: "9" * 64}, before.facts)
    other = replace(trained_world, **{of: after})
    assert replies_of(evaluated(other, workspace)[0]) == {"asked": 42, "reused": 0}


def test_replies_of_an_earlier_version_are_not_reused(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(trained_world, workspace, FEW)
    monkeypatch.setattr("training.replies.REPLIES_VERSION", 99)
    assert replies_of(evaluated(trained_world, workspace)[0])["reused"] == 0


def test_a_forced_evaluation_asks_everything_anew_also_after_a_stop(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another evaluation of the model holds them all."""
    evaluated(trained_world, workspace)
    other = CONFIG.model_copy(update={"gallery_examples": 0})
    before, _ = evaluated(trained_world, workspace, other)
    assert replies_of(before) == {"asked": 0, "reused": 42}
    take_back(workspace.store, request_of(trained_world, other))

    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.evaluate.run_units", stops)
        with pytest.raises(KeyboardInterrupt):
            evaluated(trained_world, workspace, other)
    forced, reused = evaluated(trained_world, workspace, other)
    assert not reused
    assert replies_of(forced) == {"asked": 42, "reused": 0}
    assert_same_rows(rows_of(forced, workspace), rows_of(before, workspace))
    # What was forced is done: the next evaluation reuses again.
    third, _ = evaluated(trained_world, workspace, CONFIG.model_copy(update={"gallery_examples": 1}))
    assert replies_of(third) == {"asked": 0, "reused": 42}


def test_replies_of_a_forgotten_image_are_gone_and_gc_keeps_the_rest(
    answered: list[list[Asked]], trained_world: Any, workspace: Workspace
) -> None:
    """An output that names a forgotten image goes as a whole, with its texts; one that does not stays."""
    store = workspace.store
    few, _ = evaluated(trained_world, workspace, FEW)
    whole, _ = evaluated(trained_world, workspace)
    garbage = find_garbage(store, workspace.cache.folder, grace_seconds=-60)
    assert not [one for one in garbage if one.object.key.startswith("evaluate/")]
    gone = sorted({each.image_id for each in trained_world.test_examples})[-1]
    assert forget([gone], workspace).evaluations == [f"evaluate/{whole.fingerprint}"]
    (part,) = few.parts_of("predictions")
    assert store.exists(part_key("evaluate", part.digest))
    assert not any(store.exists(part_key("evaluate", part.digest)) for part in whole.parts_of("predictions"))


def test_an_earlier_evaluation_that_is_damaged_is_named(
    answered: list[list[Asked]], trained_world: Any, store: LocalStore, profile: Profile, workspace: Workspace
) -> None:
    evaluated(trained_world, workspace, FEW)
    path = file_of(evaluated(trained_world, workspace, FEW)[0], "replies.parquet", workspace)
    stored = store.folder / "evaluate" / "parts" / path.name
    stored.write_bytes(stored.read_bytes()[:-1])
    elsewhere = Workspace(Settings(), profile, store, PartCache(store, store.folder.with_name("another")), Silent())
    with pytest.raises(IntegrityError, match=f"evaluate/parts/{path.name}"):
        evaluated(trained_world, elsewhere)
    assert not store.exists(request_of(trained_world).manifest_key)
