"""A store with weeks of a pipeline in it, written as Frostline writes it: no engine is started."""

from collections.abc import Mapping
from typing import Any

from infra.log import create_in
from infra.outputs import Draft, Manifest, OutputRequest, Part, commit
from infra.record import Record
from infra.store import Store
from training.champion_scores import champion_outputs_name
from training.ledger import Kind, LedgerEntry, folder_of
from training.notices import Notice, note

MODEL = "weekly"
RECIPE = "weekly"


def at(day: int) -> str:
    return f"2026-03-{day:02d}T06:00:00Z"


def digest(letter: str) -> str:
    return letter * 64


def put(
    store: Store,
    step: str,
    day: int,
    seconds: float = 1.0,
    *,
    parts: str = "",
    counts: Mapping[str, int] | None = None,
    identity: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    recipe: str = RECIPE,
) -> Manifest:
    """An output made on a day of March, with a part for each letter."""
    request = OutputRequest(step, 1, recipe, {"day": day, **(config or {})}, inputs or {})
    draft = Draft(
        parts=[Part(kind="file", digest=digest(letter), size_bytes=1, num_rows=1) for letter in parts],
        identity=dict(identity or {}),
        counts=dict(counts or {}),
        facts=dict(facts or {}),
    )
    record = Record(created_at=at(day), seconds=seconds, git_commit="unknown", packages={}, resources=resources or {})
    manifest = Manifest(
        step=step, step_version=1, name=recipe, fingerprint=request.fingerprint, config=dict(request.config),
        inputs=dict(request.inputs), draft=draft, record=record,
    )  # fmt: skip
    return commit(store, request, manifest)


def enter(store: Store, number: int, day: int, kind: Kind, model: str, version: str, fingerprint: str) -> None:
    entry = LedgerEntry(
        number=number, kind=kind, model_digest=digest(model), version=version, previous_version=None,
        train_fingerprint="t", register_fingerprint=fingerprint, inputs={"champion_digest": "none"},
        reasons=[f"{kind} <of> {version}"], decided_at=at(day), token=str(number),
    )  # fmt: skip
    assert create_in(store, folder_of(MODEL), number, entry.model_dump(exclude={"number"}))


def four_weeks(store: Store) -> None:
    """Data grow, encodes are saved from the second week on; model `a` serves, then `b`, then, by a rollback, `a` again;
    `c` is refused by the gate and `d` waits for approval."""
    gpus = {
        "featurize": {"num_actors": 2, "gpus_per_actor": 1.0},
        "train": {"num_ranks": 4, "gpus_per_rank": 1},
        "evaluate": {"num_actors": 1, "gpus_per_actor": 0.5},
    }
    letters = "0123456789"
    champion = ["none", digest("a"), digest("b"), digest("a")]
    cases = ["no_champion", "gain", "fails_control", "awaits_approval"]
    for week in range(4):
        day, model = 1 + 7 * week, "abcd"[week]
        images = 1000 + 500 * week
        put(store, "ingest", day, 10, parts=letters[: 2 + week], counts={
            "rows_out": 5 * images, "images": images, "quarantined": 3 * week, "duplicates": 0, "rows_in": 5 * images,
        })  # fmt: skip
        encoded = images if week == 0 else 500
        put(store, "featurize", day, encoded / 10, identity={"encoder_key": "tower"}, resources=gpus,
            counts={"rows_out": images, "encoded": encoded, "reused": images - encoded})  # fmt: skip
        put(store, "train", day, 300 + 10 * week, identity={"model_digest": digest(model)}, resources=gpus, facts={
            "speed_curves": {"images_per_second": [[1, 1.0], [2, 200.0 + week], [3, 900.0]],
                             "target_tokens_per_second": [[1, 9000.0]]},
        })  # fmt: skip
        score = 0.60 + 0.05 * week
        put(store, "evaluate", day, 20, identity={"model_digest": digest(model)}, resources=gpus,
            inputs={"test_digest": digest("e"), "model_digest": digest(model)}, facts={
                "metrics": {"vqa_accuracy": score, "bleu_4": 0.3},
                "intervals": {"vqa_accuracy": [score - 0.04, score + 0.04]},
                "num_replies": {"asked": 800, "reused": 0},
            })  # fmt: skip
        decided = put(
            store, "register", day, 5, config={"primary_metric": "vqa_accuracy"},
            facts={"promotion": {"case": cases[week]}},
            inputs={"model_name": MODEL, "model_digest": digest(model), "champion_digest": champion[week]},
        )  # fmt: skip
        if week < 2:
            enter(store, week + 1, day, "promotion", model, str(week + 1), decided.fingerprint)
        if week == 1:
            enter(store, 3, day + 2, "rollback", "a", "1", decided.fingerprint)
        if week >= 2:
            kind = "refused_by_gate" if week == 2 else "awaits_approval"
            version = str(week + 1)
            note(store, MODEL, Notice(
                kind=kind, version=version, register_fingerprint=decided.fingerprint, reasons=[f"{kind} of {version}"],
            ))  # fmt: skip
    # A later look at the champion, as the gate and `watch` take it: it is asked only what is new.
    put(store, "evaluate", 23, 2, recipe=champion_outputs_name(RECIPE), resources=gpus,
        identity={"model_digest": digest("a")},
        inputs={"test_digest": digest("f"), "model_digest": digest("a")}, facts={
            "metrics": {"vqa_accuracy": 0.58}, "intervals": {"vqa_accuracy": [0.54, 0.62]},
            "num_replies": {"asked": 80, "reused": 800},
        })  # fmt: skip
