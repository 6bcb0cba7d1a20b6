"""COCO captions: a row per captioned image, whatever the order of the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_rows import all_rows, fault_of, good_rows, opened, versions

from data_prep.sources import Source
from infra.errors import ConfigError, DataError

FOUND = {
    "images": [{"id": 7, "file_name": "7.png"}, {"id": 3, "file_name": "3.png"}, {"id": 5, "file_name": "5.png"}],
    "annotations": [
        {"image_id": 7, "caption": "a  dog\n"},
        {"image_id": 3, "caption": "a cat"},
        {"image_id": 7, "caption": "the dog"},
    ],
}


@pytest.fixture
def coco(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Callable[[Any], Source]:
    (tmp_path / "images").mkdir()
    for number in (3, 5, 7):
        (tmp_path / "images" / f"{number}.png").write_bytes(make_picture(number))

    def write(found: Any) -> Source:
        path = tmp_path / "captions.json"
        path.write_text(found if isinstance(found, str) else json.dumps(found))
        return opened(kind="coco_captions", annotations=str(path), images=str(tmp_path / "images"), split="val")

    return write


def test_captions_of_an_image_are_one_row_in_order_of_ids(
    coco: Callable[[Any], Source], make_picture: Callable[[int], bytes]
) -> None:
    rows = good_rows(coco(FOUND))
    assert [(row.row, row.image.name, row.targets, row.split) for row in rows] == [
        (0, "3.png", ("a cat",), "val"),
        (1, "7.png", ("a dog", "the dog"), "val"),
    ]
    assert [row.image.read() for row in rows] == [make_picture(3), make_picture(7)]


def test_a_caption_of_an_unlisted_image_is_a_row_whose_file_is_missing(coco: Callable[[Any], Source]) -> None:
    (row,) = good_rows(coco({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}))
    assert row.image.version == "missing"
    assert fault_of(row) == "missing_file"


@pytest.mark.parametrize(
    "found",
    [
        "{torn",
        "[" * 100_000,
        [],
        {},
        {"images": [], "annotations": [{"caption": "no image"}]},
        {"images": [{"id": 1}], "annotations": []},
        {"images": None, "annotations": []},
        {"images": [], "annotations": [{"image_id": [1], "caption": "a"}]},
        {"images": [], "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": "2", "caption": "a"}]},
        {"images": [1], "annotations": []},
    ],
)
def test_a_file_that_is_no_coco_captions_is_one_sentence(found: Any, coco: Callable[[Any], Source]) -> None:
    with pytest.raises(DataError) as caught:
        all_rows(coco(found))
    assert "captions.json" in str(caught.value)
    assert "expected COCO captions JSON" in str(caught.value)


def test_a_caption_that_is_null_is_no_text(coco: Callable[[Any], Source]) -> None:
    found = {"images": FOUND["images"], "annotations": [{"image_id": 3, "caption": None}]}
    assert [row.targets for row in good_rows(coco(found))] == [("",)]


def test_the_version_changes_with_a_picture_and_with_the_split_but_not_with_name_or_weight(
    tmp_path: Path, coco: Callable[[Any], Source]
) -> None:
    before = versions(coco(FOUND))
    config = {
        "kind": "coco_captions",
        "annotations": str(tmp_path / "captions.json"),
        "images": str(tmp_path / "images"),
    }
    assert versions(opened(**config, split="val", name="week 1", weight=2)) == before
    assert versions(opened(**config, split="test")) != before
    (tmp_path / "images" / "9.png").write_bytes(b"new")
    assert versions(opened(**config, split="val")) != before


def test_a_missing_file_or_folder_is_told_before_anything_is_read(
    tmp_path: Path, coco: Callable[[Any], Source]
) -> None:
    coco(FOUND)
    annotations, images = str(tmp_path / "captions.json"), str(tmp_path / "images")
    for wrong in ({"annotations": "/no/such.json", "images": images}, {"annotations": annotations, "images": "/none"}):
        with pytest.raises(ConfigError, match="/no"):
            opened(kind="coco_captions", **wrong).listing()
