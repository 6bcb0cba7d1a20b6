"""Configuration: one sentence with path, what was found and what was expected, before any work."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from data_prep.ingest import IngestConfig
from infra.errors import ConfigError
from infra.yaml_config import parse, read_yaml, set_values


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_rate: float
    kind: Literal["mlp", "transformer"] = "mlp"


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    ingest: IngestConfig
    training: Section | None = None


def recipe() -> dict[str, Any]:
    return {
        "name": "demo",
        "ingest": {
            "sources": [
                {"kind": "digit_scenes", "num_images": 5},
                {"kind": "jsonl", "path": "a.jsonl", "images": "pictures"},
            ]
        },
        "training": {"learning_rate": 0.1},
    }


def told(*assignments: str) -> str:
    """What the person reads when these assignments are made."""
    with pytest.raises(ConfigError) as caught:
        parse(Recipe, set_values(recipe(), assignments), where="recipe demo")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("assignment", "path", "suggestion", "known"),
    [
        ("ingset=1", "ingset", "ingest", "ingest, name, training"),
        (
            "ingest.sourcse=1",
            "ingest.sourcse",
            "sources",
            "images_per_shard, max_image_memory_bytes, max_image_seconds, max_quarantined_fraction",
        ),
        ("ingest.split_fractions.vall=0.2", "ingest.split_fractions.vall", "val", "test, val"),
        ("training.learning_rat=1", "training.learning_rat", "learning_rate", "kind, learning_rate"),
        (
            "ingest.sources.0.num_imagse=3",
            "ingest.sources.0.num_imagse",
            "num_images",
            "image_size_px, kind, name, num_images, seed, weight",
        ),
        (
            "ingest.sources.1.imagse=3",
            "ingest.sources.1.imagse",
            "images",
            "columns, images, kind, name, path, split, task, weight",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_the_known_ones_and_a_suggestion(
    assignment: str, path: str, suggestion: str, known: str
) -> None:
    text = told(assignment)
    assert f"unknown key {path!r}" in text
    assert f"expected one of {known}." in text or f"{known}, " in text
    assert f"Did you mean {suggestion!r}?" in text
    assert text.startswith("recipe demo:")


def test_a_key_like_no_other_gets_no_suggestion() -> None:
    text = told("zzzz=1")
    assert "expected one of ingest, name, training." in text
    assert "Did you mean" not in text


def test_a_missing_key_is_named() -> None:
    text = told("training={}")
    assert "'training.learning_rate' is missing" in text
    assert "'ingest.sources.1.path' is missing" in told("ingest.sources.1={kind: jsonl, images: x}")


@pytest.mark.parametrize(
    ("assignment", "where", "found"),
    [
        ("training.learning_rate=fast", "training.learning_rate", "'fast'"),
        ("training.kind=rnn", "training.kind", "'rnn'"),
        ("ingest.images_per_shard=0", "ingest.images_per_shard", "0"),
        ("ingest.images_per_shard=2.5", "ingest.images_per_shard", "2.5"),
        ("ingest.sources=[]", "ingest.sources", "[]"),
        ("ingest.sources.0.num_images=many", "ingest.sources.0.num_images", "'many'"),
        ("name=[1]", "name", "[1]"),
        ("training=5", "training", "5"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(assignment: str, where: str, found: str) -> None:
    assert f"{where} is {found}; " in told(assignment)


def test_an_unknown_kind_of_source_names_the_kinds() -> None:
    text = told("ingest.sources.0.kind=coco")
    assert text == (
        "recipe demo: ingest.sources.0.kind is 'coco'; expected one of coco_captions, csv, digit_scenes, hf_parquet, "
        "image_folder, jsonl, url_list, vqa_v2, webdataset."
    )
    assert "Did you mean 'jsonl'?" in told("ingest.sources.0.kind=json")


def test_a_source_without_kind_is_told() -> None:
    assert "the key 'ingest.sources.0.kind' is missing" in told("ingest.sources.0={path: a}")


def test_a_section_that_is_missing_is_made() -> None:
    changed = set_values({"name": "demo"}, ["training.mapper.width=8", "training.kind=mlp"])
    assert changed == {"name": "demo", "training": {"mapper": {"width": 8}, "kind": "mlp"}}


def test_a_section_that_is_null_is_made() -> None:
    assert set_values({"training": None}, ["training.kind=mlp"]) == {"training": {"kind": "mlp"}}


def test_list_positions_are_set_in_a_copy() -> None:
    before = recipe()
    changed = set_values(before, ["ingest.sources.1.path=b.jsonl", "ingest.sources.0={kind: digit_scenes}"])
    assert changed["ingest"]["sources"][1]["path"] == "b.jsonl"
    assert changed["ingest"]["sources"][0] == {"kind": "digit_scenes"}
    assert before == recipe()


def test_values_are_yaml() -> None:
    assert set_values({}, ["a=1", "b=true", "c=[1, 2]", "d=x=y", "e=", "f=null"]) == {
        "a": 1,
        "b": True,
        "c": [1, 2],
        "d": "x=y",
        "e": None,
        "f": None,
    }


@pytest.mark.parametrize(
    "assignment",
    [
        "ingest.sources.2.path=x",
        "ingest.sources.-1.path=x",
        "ingest.sources.first.path=x",
        "ingest.sources.5=x",
        "name.key=x",
        "name.key.deeper=x",
        "ingest.sources.0.num_images.a=1",
        "training.learning_rate",
        "=1",
        "name=[1",
        "name={a: }}",
    ],
)
def test_an_impossible_assignment_is_one_sentence(assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_values(recipe(), [assignment])
    assert assignment in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_assignment_into_an_element_that_is_no_section_is_one_sentence() -> None:
    for assignment in ("sizes.0.a=1", "sizes.0.a.b=1"):
        with pytest.raises(ConfigError, match=r"sizes\.0 is 1; expected a section"):
            set_values({"sizes": [1, 2]}, [assignment])


@pytest.mark.parametrize("data", [b"- a\n- b\n", b"a: [1\n", b"\xff\xfe\x00a", b"", b"a: !!python/object:os.x {}\n"])
def test_a_file_that_is_no_mapping_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "none.yaml")
