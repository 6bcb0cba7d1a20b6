"""Every folder of real data through its native adapter, with exact counts."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from source_rows import all_rows, opened

from data_prep.sources import SourceRow
from infra.digests import digest_bytes

pytestmark = pytest.mark.shared_data

COCO = {"annotations": "coco_mini/captions.json", "images": "coco_mini/images"}
VQA = {
    "questions": "coco_mini/vqa_questions.json",
    "annotations": "coco_mini/vqa_annotations.json",
    "images": "coco_mini/images",
}
NEGATIVES = {"caption": "caption", "negatives": "negative_caption", "attributes": ["type"]}

SOURCES: list[tuple[dict[str, Any], dict[str, int], int, int]] = [
    # source, rows by task, targets, distinct images (by their bytes)
    ({"kind": "coco_captions", **COCO}, {"caption": 295}, 1475, 295),
    ({"kind": "vqa_v2", **VQA}, {"vqa": 264}, 1182, 174),
    (
        {"kind": "jsonl", "path": "coco_mini/hard_negatives.jsonl", "images": "coco_mini", "columns": NEGATIVES},
        {"caption": 415},
        415,
        85,
    ),
    ({"kind": "webdataset", "path": "ucm_captions"}, {"caption": 841}, 4205, 841),
    (
        {"kind": "webdataset", "path": "ucm_captions/*.tar", "label_field": "label"},
        {"caption": 841, "classify": 841},
        4205 + 841,
        841,
    ),
    ({"kind": "csv", "path": "daquar/questions.csv", "images": "daquar"}, {"vqa": 6795}, 6795, 794),
    (
        {"kind": "jsonl", "path": "easy_vqa/questions.jsonl", "images": "easy_vqa/images.tar"},
        {"vqa": 15951},
        15951,
        4000,
    ),
    ({"kind": "jsonl", "path": "nlvr/questions.jsonl", "images": "nlvr/images.tar"}, {"vqa": 1950}, 1950, 1926),
    ({"kind": "hf_parquet", "path": "cifar10"}, {"classify": 5000}, 5000, 5000),
    ({"kind": "image_folder", "path": "clothing/images"}, {"classify": 400}, 400, 400),
    (
        {
            "kind": "jsonl",
            "path": "robustness/manifest.jsonl",
            "images": "robustness/files.tar",
            "columns": {"image": "file", "label": "source_repo"},
        },
        {"classify": 690},
        690,
        690,
    ),
]


@pytest.mark.parametrize(("config", "tasks", "targets", "images"), SOURCES)
def test_a_real_folder_has_exactly_these_rows_and_images(
    config: dict[str, Any], tasks: dict[str, int], targets: int, images: int, shared_data: Path
) -> None:
    places = {"path", "annotations", "questions", "images"}
    source = opened(**{key: str(shared_data / value) if key in places else value for key, value in config.items()})
    rows = [row for row in all_rows(source) if isinstance(row, SourceRow)]
    assert len(rows) == len(all_rows(source)), "no bad rows"
    assert Counter(row.task for row in rows) == tasks
    assert sum(len(row.targets) for row in rows) == targets
    assert all(target.strip() for row in rows for target in row.targets)
    refs = {(row.image.uri, row.image.version): row.image for row in rows}
    assert len({digest_bytes(ref.read()) for ref in refs.values()}) == images


def test_real_questions_have_up_to_ten_answers_in_their_order(shared_data: Path) -> None:
    source = opened(kind="vqa_v2", **{key: str(shared_data / value) for key, value in VQA.items()})
    first = next(row for row in all_rows(source) if isinstance(row, SourceRow))
    assert first.prompt == "What is the giraffe standing behind?"
    assert first.targets == (
        *("tree", "tree", "fallen tree", "tree", "tree"),
        *("log", "trees", "log", "log", "tree"),
    )
    assert {len(row.targets) for row in all_rows(source) if isinstance(row, SourceRow)} >= {10}


def test_real_negatives_stand_beside_their_captions(shared_data: Path) -> None:
    folder = shared_data / "coco_mini"
    source = opened(kind="jsonl", path=str(folder / "hard_negatives.jsonl"), images=str(folder), columns=NEGATIVES)
    rows = [row for row in all_rows(source) if isinstance(row, SourceRow)]
    assert all(len(row.negatives) == 1 and row.negatives[0] != row.targets[0] for row in rows)
    assert rows[0].attributes == {"type": "add_att"}


def test_real_photos_belong_to_real_classes(shared_data: Path) -> None:
    clothes = opened(kind="image_folder", path=str(shared_data / "clothing" / "images"))
    assert len({file.name for file in clothes.files()}) == 10
    cifar = opened(kind="hf_parquet", path=str(shared_data / "cifar10"))
    labels = Counter(row.label for row in all_rows(cifar) if isinstance(row, SourceRow))
    assert len(labels) == 10
    assert "frog" in labels
