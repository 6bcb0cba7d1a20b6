"""The report with the champion in it: made where a champion was met, once, and of what the store holds."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from registering import RULE, Places

import training.register
from data_prep.schemas import predictions_schema
from flows.forget import forget
from flows.registration import register_model
from flows.summary import newest_report, report_path, summarise
from infra import log
from infra.outputs import Attempt, Manifest, ensure_output, manifest_key, upload_part
from infra.verify import verify_store
from training.candidate import ModelPlace, read_candidate
from training.ledger import history
from training.register import SHOWN_IMAGES, RegisterNames, register_request

RISEN, FALLEN = [str(number) for number in range(13, 22)], ["2", "3", "4"]
"""Examples that the challenger answers better and worse; `held_out` asks it none of these again."""
SHOWN = 2
WORLD = pytest.mark.parametrize("world", [{"gallery_examples": SHOWN}], indirect=True)


def changed(world: Any, folder: Path, seed: int = 1) -> Any:
    """A challenger that scores 1 where it rises, 0 where it falls, and 0.8 as the champion everywhere else."""
    new = world.trained(seed)
    table = pq.read_table(world.cache.path("evaluate", new.evaluation.parts_of("predictions")[0])).to_pylist()
    for row in table:
        score = 1.0 if row["example_id"] in RISEN else 0.0 if row["example_id"] in FALLEN else 0.8
        if row["example_id"] in RISEN + FALLEN:
            row["prediction"] = f"now {row['example_id']}"
        row["scores"] = [("vqa_accuracy", score)] if row["prompt"] else []
    pq.write_table(pa.Table.from_pylist(table, predictions_schema()), folder / "changed.parquet")
    part = upload_part(
        world.store,
        "evaluate",
        folder / "changed.parquet",
        "predictions",
        len(table),
        name="report/predictions.parquet",
    )
    draft = new.evaluation.draft
    draft = draft.model_copy(
        update={
            "parts": [*(each for each in draft.parts if each.kind != "predictions"), part],
            "identity": {**draft.identity, "evaluation_digest": part.digest},
        }
    )
    return replace(new, evaluation=new.evaluation.model_copy(update={"draft": draft}))


def page_of(made: Manifest, places: Places) -> str:
    (part,) = made.parts_of("report")
    return places.workspace.cache.path("register", part).read_text()


def mlflow_page(places: Places, version: str) -> str:
    from mlflow.artifacts import load_text

    run = places.registry.version(places.model_name, version).run_id
    found: str = load_text(places.registry._client.get_run(run).info.artifact_uri + f"/report/{places.model_name}.html")
    return found


@WORLD
def test_the_page_tells_the_decision_and_shows_what_changed_both_ways(
    world: Any, places: Places, tmp_path: Path
) -> None:
    places.register(world)
    made, _ = places.register(changed(world, tmp_path))
    page = page_of(made, places)
    assert "The champion stays" in page
    reasons = made.facts["promotion"]["reasons"]
    assert all(reason.replace("'", "&#39;") in page for reason in reasons)
    gain = next(reason for reason in reasons if "interval" in reason)
    low, high = (
        f"{100 * float(end):+.1f}".replace("-", "\u2212")
        for end in gain.split("interval ")[1].split(";")[0].split(" to ")
    )
    assert f"{low} to {high}" in page, "the gate's own interval"
    better, worse = (page.split(f'id="gallery-{group}"')[1].split("<h3")[0] for group in ("better", "worse"))
    for group, ids, scores in ((better, RISEN, "champion 0.80 → 1.00"), (worse, FALLEN, "champion 0.80 → 0.00")):
        shown = [each for each in ids if f"now {each}<" in group]
        assert len(shown) == SHOWN and group.count(scores) == SHOWN
        for champion_text in champion_texts(world, shown):
            assert f"<dt>The champion</dt>\n          <dd>{champion_text}" in group
        assert group.count("<dd>two</dd>") == SHOWN, "the references"
        assert group.count("data:image/png;base64,") == SHOWN


def champion_texts(world: Any, example_ids: list[str]) -> list[str]:
    import html

    (part,) = world.evaluation.parts_of("predictions")
    rows = pq.read_table(world.cache.path("evaluate", part)).to_pylist()
    texts = [row["prediction"] for row in rows if row["example_id"] in example_ids]
    return [html.escape(text) if text.strip() else "(nothing)" for text in texts]


@WORLD
def test_mlflow_shows_the_figures_and_nothing_of_a_single_example(world: Any, places: Places, tmp_path: Path) -> None:
    places.register(world)
    assert "hampion" not in mlflow_page(places, "1")
    places.register(changed(world, tmp_path))
    page = mlflow_page(places, "2")
    assert "The champion stays" in page and "left out of this copy" in page
    assert "data:image" not in page and "now 1" not in page


@WORLD
def test_where_no_champion_was_met_the_evaluations_own_page_stands(world: Any, places: Places, tmp_path: Path) -> None:
    first, _ = places.register(world)
    itself, _ = places.register(world, RULE.model_copy(update={"minimum_gain": 0.5}))
    assert itself.facts["promotion"]["case"] == "is_champion"
    for made in (first, itself):
        assert made.parts_of("report") == [] and made.facts[SHOWN_IMAGES] == []
        assert newest_report({"evaluate": world.evaluation, "register": made}) == world.evaluation
    met, _ = places.register(changed(world, tmp_path))
    assert newest_report({"evaluate": world.evaluation, "register": met}) == met


@WORLD
def test_a_run_hands_over_the_champions_evaluation_and_links_the_page(
    world: Any, places: Places, tmp_path: Path
) -> None:
    workspace, store = places.workspace, world.store
    outputs: dict[str, Manifest] = {}
    for each in (world, changed(world, tmp_path)):
        made = each.evaluation
        store.create(manifest_key("evaluate", made.fingerprint), made.model_dump_json().encode())
        log.append(store, "evaluate", made.identity["model_digest"], {"fingerprint": made.fingerprint})
        parts = each.parts
        recipe: Any = SimpleNamespace(
            gate=RULE,
            model_name=places.model_name,
            vision_tower=parts.vision_tower,
            language_model=parts.language_model,
        )
        names = RegisterNames("tiny", places.model_name, "here")
        outputs = {"ingest": parts.dataset, "featurize": parts.features, "train": parts.train, "evaluate": made}
        request = register_request(RULE, names, parts.train, made, store)
        produce = partial(register_model, recipe, dict(outputs), workspace=workspace)
        outputs["register"], _ = ensure_output(store, request, produce, {})
    uri = summarise([], outputs, workspace).report_uri
    assert uri == report_path(outputs["register"], workspace).as_uri()
    assert "The champion stays" in report_path(outputs["register"], workspace).read_text()


@WORLD
def test_a_start_after_a_crash_between_the_parts_makes_the_same_page(
    world: Any, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.register(world)
    challenger = changed(world, tmp_path)
    real = Attempt.add_part

    def dies(attempt: Attempt, path: Path, kind: str, *args: Any, **more: Any) -> Any:
        made = real(attempt, path, kind, *args, **more)
        if kind == "comparison":
            raise KeyboardInterrupt
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "add_part", dies)
        with pytest.raises(KeyboardInterrupt):
            places.register(challenger)
    made, _ = places.register(challenger)
    world.store.delete(manifest_key("register", made.fingerprint))
    again, reused = places.register(challenger)
    assert not reused and again.parts == made.parts
    assert len(made.parts_of("comparison")) == len(made.parts_of("report")) == 1


@WORLD
def test_a_page_that_cannot_be_made_changes_no_champion(
    world: Any, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.register(world)

    def fails(*_: Any) -> None:
        raise OSError("a damaged picture")

    monkeypatch.setattr(training.register, "pages_with_champion", fails)
    with pytest.raises(OSError, match="damaged"):
        places.register(world.trained(5))
    assert [entry.version for entry in history(world.store, places.model_name)] == ["1"]


@WORLD
def test_forgetting_an_image_takes_the_page_that_shows_it_and_leaves_the_decision(
    world: Any, places: Places, tmp_path: Path
) -> None:
    places.register(world)
    challenger = changed(world, tmp_path)
    train = challenger.parts.train
    world.store.create(manifest_key("train", train.fingerprint), train.model_dump_json().encode())
    made, _ = places.register(challenger)
    part, (gone, *_) = made.parts_of("report")[0], made.facts[SHOWN_IMAGES]
    other = "0" * 64
    assert forget([other], places.workspace).reports == []
    assert forget([gone], places.workspace).reports == [f"register/{made.fingerprint}"]
    left = Manifest.model_validate_json(world.store.read(manifest_key("register", made.fingerprint)))
    assert left.parts_of("report") == [] and gone not in left.model_dump_json()
    assert not world.store.exists(f"register/parts/{part.digest}")
    assert [damage for damage in verify_store(world.store).damaged if "register" in damage] == []
    place = ModelPlace(world.store, places.registry, places.model_name)
    decision = read_candidate(place, places.registry.version(places.model_name, "2")).decision
    assert decision is not None and decision.facts["promotion"] == made.facts["promotion"]
    assert forget([gone], places.workspace).reports == []
