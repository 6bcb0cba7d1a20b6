"""COCO captions: a row per captioned image, whatever the order of the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources.coco import CocoCaptions, CocoCaptionsConfig
from infra.errors import DataError

FOUND = {
    "images": [{"id": 7, "file_name": "7.png"}, {"id": 3, "file_name": "3.png"}, {"id": 5, "file_name": "5.png"}],
    "annotations": [
        {"image_id": 7, "caption": "a  dog\n"},
        {"image_id": 3, "caption": "a cat"},
        {"image_id": 7, "caption": "the dog"},
    ],
}


@pytest.fixture
def coco(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Callable[[Any], CocoCaptions]:
    (tmp_path / "images").mkdir()
    for number in (3, 5, 7):
        (tmp_path / "images" / f"{number}.png").write_bytes(make_picture(number))

    def write(found: Any) -> CocoCaptions:
        path = tmp_path / "captions.json"
        path.write_text(found if isinstance(found, str) else json.dumps(found))
        config = {"kind": "coco_captions", "annotations": str(path), "images": str(tmp_path / "images"), "split": "val"}
        return CocoCaptions(CocoCaptionsConfig.model_validate(config))

    return write


def test_captions_of_an_image_are_one_row_in_order_of_ids(
    coco: Callable[[Any], CocoCaptions], make_picture: Callable[[int], bytes]
) -> None:
    rows = list(coco(FOUND).rows())
    assert [(row.row, row.image_uri, row.targets, row.split) for row in rows] == [
        (0, "3.png", ("a cat",), "val"),
        (1, "7.png", ("a dog", "the dog"), "val"),
    ]
    assert [row.image() for row in rows] == [make_picture(3), make_picture(7)]
    assert [row.row for row in coco(FOUND).rows(1)] == [1]


def test_a_caption_of_an_unlisted_image_is_a_row_whose_file_is_missing(coco: Callable[[Any], CocoCaptions]) -> None:
    (row,) = coco({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}).rows()
    with pytest.raises(OSError):
        row.image()


@pytest.mark.parametrize(
    "found",
    [
        "{torn",
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
def test_a_file_that_is_no_coco_captions_is_one_sentence(found: Any, coco: Callable[[Any], CocoCaptions]) -> None:
    with pytest.raises(DataError) as caught:
        list(coco(found).rows())
    assert "captions.json" in str(caught.value)
    assert "expected COCO captions JSON" in str(caught.value)


def test_a_caption_that_is_null_is_no_text(coco: Callable[[Any], CocoCaptions]) -> None:
    found = {"images": FOUND["images"], "annotations": [{"image_id": 3, "caption": None}]}
    assert [row.targets for row in coco(found).rows()] == [("",)]


@pytest.mark.shared_data
def test_real_captions_belong_to_real_photos(shared_data: Path) -> None:
    folder = shared_data / "coco_mini"
    config = {"kind": "coco_captions", "annotations": folder / "captions.json", "images": folder / "images"}
    source = CocoCaptions(CocoCaptionsConfig.model_validate(config))
    rows = list(source.rows())
    assert len(rows) > 50
    assert all(row.targets for row in rows)
    assert all(row.image()[:2] == b"\xff\xd8" for row in rows[:20])
    assert len(source.listing()) > len(rows)
