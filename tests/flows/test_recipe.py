"""Recipes: where their paths lead."""

from pathlib import Path

from flows.recipe import load_recipe
from infra.yaml_config import parse, set_values
from training.evaluation_config import EvaluationConfig, FewShotConfig

REPOSITORY = Path(__file__).resolve().parents[2]
HUB = "hf://datasets/org/name@0123456789abcdef0123456789abcdef01234567/data"


def test_local_paths_are_the_recipes_own_and_uris_are_left_alone(tmp_path: Path) -> None:
    tiny = (REPOSITORY / "tests" / "recipes" / "tiny.yaml").read_text()
    sources = [
        "{kind: jsonl, path: rows.jsonl, images: s3://bucket/pictures}",
        "{kind: vqa_v2, questions: q/q.json, annotations: /data/a.json, images: images.tar}",
        f"{{kind: hf_parquet, path: {HUB}}}",
    ]
    first, _, rest = tiny.partition("    - {kind: digit_scenes, num_images: 600, seed: 0, image_size_px: 48}\n")
    (tmp_path / "recipe.yaml").write_text(first + "".join(f"    - {source}\n" for source in sources) + rest)
    jsonl, vqa, parquet = (source.model_dump() for source in load_recipe(str(tmp_path / "recipe.yaml")).ingest.sources)
    assert (jsonl["path"], jsonl["images"]) == (str(tmp_path / "rows.jsonl"), "s3://bucket/pictures")
    assert (vqa["questions"], vqa["annotations"]) == (str(tmp_path / "q" / "q.json"), "/data/a.json")
    assert vqa["images"] == str(tmp_path / "images.tar")
    assert parquet["path"] == HUB


def test_shots_are_set_for_a_recipe_and_for_an_evaluation_alone() -> None:
    expected = FewShotConfig(examples=4)
    assert load_recipe("quickstart", ["evaluation.few_shot.examples=4"]).evaluation.few_shot == expected
    assert parse(EvaluationConfig, set_values({}, ["few_shot.examples=4"]), where="--set").few_shot == expected
