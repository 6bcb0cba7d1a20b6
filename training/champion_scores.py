"""What evaluations in the store say of a champion and its challenger, example by example."""

from dataclasses import replace

from infra import log
from infra.outputs import Manifest, manifest_key, read_manifest
from infra.part_cache import PartCache
from infra.store import Store
from training.evaluation_config import yardstick
from training.evidence import ExampleScores, FirstTest, ModelScores
from training.ledger import LedgerEntry
from training.promotion_rule import PromotionRule


def champion_outputs_name(recipe: str) -> str:
    """Of the features and evaluations of a recipe's champion on later rows; not the recipe's own, whose log `plan`
    compares with."""
    return f"{recipe}.champion"


def champion_evaluation(champion: LedgerEntry, evaluation: Manifest, store: Store) -> Manifest | None:
    """The champion's newest on the test rows of `evaluation`, scored alike. None where it must be made first."""
    for found in reversed(_evaluations(champion.model_digest, evaluation.step, store)):
        if yardstick(found) == yardstick(evaluation):
            return found
    return None


def scores_of(evaluation: Manifest, cache: PartCache) -> ModelScores:
    """Raises IntegrityError where the predictions are damaged."""
    import pyarrow.parquet as pq

    (part,) = evaluation.parts_of("predictions")
    columns = ["example_id", "image_id", "scores", "slices"]
    rows = pq.read_table(cache.path(evaluation.step, part), columns=columns).to_pylist()
    examples = [
        ExampleScores(row["example_id"], row["image_id"], dict(row["scores"]), dict(row["slices"])) for row in rows
    ]
    facts = evaluation.facts
    return ModelScores(
        evaluation.identity["model_digest"], facts["metrics"], facts["control"], facts["blind"], examples
    )


def champion_scores(evaluation: Manifest, rule: PromotionRule, cache: PartCache) -> ModelScores:
    """Of the champion's evaluation, with its first test where the rule asks for it. Raises as `scores_of` does."""
    scores = scores_of(evaluation, cache)
    if rule.forgetting is None:
        return scores
    oldest = _evaluations(scores.model_digest, evaluation.step, cache.store)[0]
    return replace(scores, first_test=_first_test(oldest, cache))


def _evaluations(model_digest: str, step: str, store: Store) -> list[Manifest]:
    """Of a model, those that are still there, oldest first."""
    keys = [manifest_key(step, entry["fingerprint"]) for entry in log.entries(store, step, model_digest)]
    found = [manifest for key in keys if (manifest := read_manifest(store, key)) is not None]
    return [each for each in found if each.inputs["model_digest"] == model_digest]


def _first_test(evaluation: Manifest, cache: PartCache) -> FirstTest:
    import pyarrow.parquet as pq

    (part,) = evaluation.parts_of("predictions")
    example_ids = pq.read_table(cache.path(evaluation.step, part), columns=["example_id"])["example_id"].to_pylist()
    told = f"evaluate {evaluation.fingerprint[:12]}, made {evaluation.record.created_at}"
    return FirstTest(told, frozenset(example_ids))
