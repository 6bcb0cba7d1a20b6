"""What a store tells of its pipeline over time."""

import json
from pathlib import Path

import pytest
from storied import MODEL, RECIPE, digest, four_weeks, put

from infra.outputs import manifest_key
from infra.store import LocalStore
from training.champion_scores import champion_outputs_name
from training.made import OutputReader
from training.served import served
from training.story import Story, Work, story_of
from training.verdicts import give_verdict


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def told(store: LocalStore) -> Story:
    made, damaged = OutputReader(store).read()
    return story_of(made, served(store, made), damaged)


def work(story: Story, step: str, recipe: str = RECIPE) -> Work:
    (found,) = [one for one in story.work if (one.recipe, one.step) == (recipe, step)]
    return found


def test_an_empty_store_has_an_empty_story(store: LocalStore) -> None:
    story = told(store)
    assert story.growth == story.work == story.models.changes == story.moments == []


def test_encodes_saved_are_valued_by_what_an_encode_took_with_the_same_tower(store: LocalStore) -> None:
    put(store, "featurize", 1, 100, identity={"encoder_key": "one"}, counts={"encoded": 1000, "reused": 0})
    put(store, "featurize", 2, 20, identity={"encoder_key": "one"}, counts={"encoded": 200, "reused": 1000})
    put(store, "featurize", 3, 9, identity={"encoder_key": "other"}, counts={"encoded": 0, "reused": 50})
    found = work(told(store), "featurize")
    assert (found.units_done, found.units_saved) == (1200, 1050)
    assert found.seconds == pytest.approx(129)
    assert found.accelerator_seconds_saved == pytest.approx(1000 * 120 / 1200)  # nothing for the other tower's 50


def test_accelerator_seconds_are_multiplied_by_the_gpus_held(store: LocalStore) -> None:
    four_weeks(store)
    story = told(store)
    assert (work(story, "train").device, work(story, "ingest").device) == ("gpu", None)
    assert work(story, "train").accelerator_seconds == pytest.approx(4 * (300 + 310 + 320 + 330))
    assert work(story, "evaluate").accelerator_seconds == pytest.approx(0.5 * 80)
    assert work(story, "ingest").accelerator_seconds == 0
    # The second evaluation of `a`: 880 of its replies were asked in 22 s.
    later = work(story, "evaluate", champion_outputs_name(RECIPE))
    assert later.accelerator_seconds == pytest.approx(0.5 * 2)
    assert later.accelerator_seconds_saved == pytest.approx(0.5 * 800 * 22 / 880)
    put(store, "base", 1, 7, resources={"base": {"num_actors": 2}})
    assert (work(told(store), "base").device, work(told(store), "base").accelerator_seconds) == ("cpu", 7)


def test_what_made_a_model_smaller_is_work_without_an_accelerator(store: LocalStore) -> None:
    put(store, "quantise", 1, 7)
    assert (work(told(store), "quantise").seconds, work(told(store), "quantise").device) == (7, None)


def test_data_work_and_throughput_are_told_in_order(store: LocalStore) -> None:
    four_weeks(store)
    story = told(store)
    assert [(one.images, one.rows, one.quarantined) for one in story.growth] == [
        (1000, 5000, 0), (1500, 7500, 3), (2000, 10000, 6), (2500, 12500, 9),
    ]  # fmt: skip
    assert (story.moments[-1].encoded, story.moments[-1].encodes_saved) == (2500, 4500)
    assert [moment.at for moment in story.moments] == sorted(moment.at for moment in story.moments)
    assert story.moments[-1].accelerator_seconds == pytest.approx(sum(one.accelerator_seconds for one in story.work))
    assert [one.images_per_second for one in story.speeds] == [200, 201, 202, 203]  # medians
    assert work(story, "ingest").parts_saved == 2 + 3 + 4


def test_who_served_how_well_and_what_was_decided(store: LocalStore) -> None:
    four_weeks(store)
    models = told(store).models
    assert models.champions == {MODEL: "1"}
    assert [change.kind for change in models.changes] == [
        "promotion", "promotion", "rollback", "refused_by_gate", "awaits_approval",
    ]  # fmt: skip
    assert [(one.version, one.score, one.serves) for one in models.quality] == [
        ("1", 0.60, True), ("2", 0.65, False), ("1", 0.58, True),
    ]  # fmt: skip
    assert (models.quality[0].low, models.quality[0].high) == pytest.approx((0.56, 0.64))
    assert models.quality[0].test_rows != models.quality[2].test_rows


def test_rows_of_somebodys_own_are_no_quality_of_the_champion(store: LocalStore) -> None:
    four_weeks(store)
    before = told(store).models.quality
    put(store, "evaluate", 24, identity={"model_digest": digest("a")}, recipe="asked by hand", facts={
        "metrics": {"vqa_accuracy": 0.01}, "intervals": {},
    })  # fmt: skip
    assert told(store).models.quality == before


def test_a_model_waits_until_somebody_gives_a_word(store: LocalStore) -> None:
    four_weeks(store)
    (waiting,) = told(store).models.waiting
    assert (waiting.version, waiting.since[:10]) == ("4", "2026-03-22")
    made, _ = OutputReader(store).read()
    decided = [one for one in made if one.step == "register"][-1]
    give_verdict(store, MODEL, decided.fingerprint, "refused", "4", None)
    assert told(store).models.waiting == []


def test_what_was_read_is_not_read_again_unless_it_was_written_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_weeks(store)
    reader = OutputReader(store)
    first = reader.read()
    keys: list[str] = []
    read = store.read

    def read_and_note(key: str) -> bytes | None:
        keys.append(key)
        return read(key)

    made = put(store, "ingest", 29, counts={"rows_out": 1, "images": 1})
    monkeypatch.setattr(store, "read", read_and_note)
    assert len(reader.read()[0]) == len(first[0]) + 1
    assert keys == [manifest_key("ingest", made.fingerprint)]
    store.delete(keys[0])
    assert reader.read() == first
    assert len(keys) == 1


def test_a_damaged_manifest_is_named_and_costs_nothing_else(store: LocalStore) -> None:
    four_weeks(store)
    made, _ = OutputReader(store).read()
    key = manifest_key(made[0].step, made[0].fingerprint)
    content = json.loads(store.read(key) or b"")
    store.write(key, json.dumps(content | {"name": "changed"}).encode())
    assert told(store).damaged == [key]
    assert len(told(store).growth) == 3
    assert RECIPE in {one.recipe for one in told(store).growth}
