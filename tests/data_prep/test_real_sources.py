"""Every folder of real data through its native adapter: each row and image accounted for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.outputs import Manifest

pytestmark = pytest.mark.shared_data

SOURCES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "coco captions": (
        {"kind": "coco_captions", "annotations": "coco_mini/captions.json", "images": "coco_mini/images"},
        {"rows_in": 295, "rows_out": 295, "duplicates": 0, "images": 295},
    ),
    "coco questions": (
        {
            "kind": "vqa_v2",
            "questions": "coco_mini/vqa_questions.json",
            "annotations": "coco_mini/vqa_annotations.json",
            "images": "coco_mini/images",
        },
        {"rows_in": 264, "rows_out": 264, "duplicates": 0, "images": 174},
    ),
    "coco hard negatives": (
        {
            "kind": "jsonl",
            "path": "coco_mini/hard_negatives.jsonl",
            "images": "coco_mini",
            "columns": {"negatives": "negative_caption"},
        },
        {"rows_in": 415, "rows_out": 414, "duplicates": 1, "images": 85},
    ),
    "ucm captions": (
        {"kind": "webdataset", "path": "ucm_captions", "label_field": "label"},
        {"rows_in": 1682, "rows_out": 1682, "duplicates": 0, "images": 841},
    ),
    "daquar": (
        {"kind": "csv", "path": "daquar/questions.csv", "images": "daquar"},
        {"rows_in": 6795, "rows_out": 6682, "duplicates": 113, "images": 794},
    ),
    "easy vqa": (
        {"kind": "jsonl", "path": "easy_vqa/questions.jsonl", "images": "easy_vqa/images.tar"},
        {"rows_in": 15951, "rows_out": 15951, "duplicates": 0, "images": 4000},
    ),
    "nlvr": (
        {"kind": "jsonl", "path": "nlvr/questions.jsonl", "images": "nlvr/images.tar"},
        {"rows_in": 1950, "rows_out": 1936, "duplicates": 14, "images": 1926},
    ),
    "cifar-10": (
        {"kind": "hf_parquet", "path": "cifar10"},
        {"rows_in": 5000, "rows_out": 5000, "duplicates": 0, "images": 5000},
    ),
    "clothing": (
        {"kind": "image_folder", "path": "clothing/images"},
        {"rows_in": 400, "rows_out": 400, "duplicates": 0, "images": 400},
    ),
}
"""Recipe, with paths below the folder of real data, and what is in it."""
PLACES = ("annotations", "questions", "images", "path")


def source_in(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    return {key: str(folder / value) if key in PLACES else value for key, value in source.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_every_row_and_image_of_a_real_dataset_is_accounted_for(
    name: str, shared_data: Path, ingested: Callable[..., Manifest]
) -> None:
    source, expected = SOURCES[name]
    counts = ingested(source_in(shared_data, source), max_quarantined_fraction=0.0).counts
    assert counts["quarantined"] == counts["to_try_again"] == 0
    assert {field: counts[field] for field in expected} == expected


def test_sources_over_the_same_photos_store_each_photo_once(
    shared_data: Path, ingested: Callable[..., Manifest]
) -> None:
    names = ("coco captions", "coco questions", "coco hard negatives")
    manifest = ingested(*(source_in(shared_data, SOURCES[name][0]) for name in names))
    assert manifest.counts["rows_in"] == 295 + 264 + 415
    assert manifest.counts["images"] == 369, "some photos have questions only"


def test_each_of_the_odd_and_hostile_files_is_a_row_or_quarantined(
    shared_data: Path, ingested: Callable[..., Manifest]
) -> None:
    """Which of them Pillow decodes is the matter of test_robustness.py."""
    source = {
        "kind": "jsonl",
        "path": str(shared_data / "robustness" / "manifest.jsonl"),
        "images": str(shared_data / "robustness" / "files.tar"),
        "columns": {"image": "file", "caption": "source_path"},
    }
    manifest = ingested(source, max_quarantined_fraction=1.0)
    counts, reasons = manifest.counts, manifest.facts["statistics"]["quarantined_by_reason"]
    assert counts["rows_in"] == counts["rows_out"] + counts["quarantined"] + counts["duplicates"] == 690
    assert (counts["rows_out"], counts["duplicates"]) == (411, 0)
    assert reasons == {"format_not_allowed": 98, "too_many_pixels": 3, "truncated": 45, "unreadable_image": 133}
