"""Files damaged at random places: rows, bad rows or one DataError, and never another exception."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import opened

from data_prep.sources import RowFault, SourceRow
from infra.errors import DataError

NUM_DAMAGED = 150
"""Of each kind. A longer run of 1,500 to 4,000 of each found a zip entry that starts before its file, a zip entry
without a name and a header with a line break in it."""


def a_tar(random: Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for number in range(3):
            members = {f"{number}.png": b"x" * 600, f"{number}.json": b'{"caption": "a"}', "ü" * 120: b""}
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def a_zip(random: Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", random.randbytes(100))
    return buffer.getvalue()


def a_parquet(random: Random) -> bytes:
    buffer = io.BytesIO()
    images = [{"bytes": random.randbytes(500), "path": None} for _ in range(20)]
    table = pa.table({"image": images, "captions": [["a", "b"]] * 20, "label": list(range(20))})
    pq.write_table(table, buffer, row_group_size=7, compression=random.choice(("none", "snappy", "zstd")))
    return buffer.getvalue()


def json_of(found: Any) -> Any:
    return lambda _: json.dumps(found).encode()


IMAGES = [{"id": 1, "file_name": "0.png"}]
LINES = b'{"image": "0.png", "captions": ["a"], "attributes": {"a": 1}}\n{"image": "0.png", "numbers": [1]}\n' * 3
KINDS: list[tuple[str, str, Any]] = [
    ("webdataset", "path", a_tar),
    ("jsonl", "images.tar", a_tar),
    ("jsonl", "images.zip", a_zip),
    ("hf_parquet", "path", a_parquet),
    ("csv", "path", lambda _: b'image,caption\n0.png,"a ""b"" c"\n0.png,\xc3\xbc\n' * 4),
    ("jsonl", "path", lambda _: LINES),
    ("coco_captions", "annotations", json_of({"images": IMAGES, "annotations": [{"image_id": 1, "caption": "a"}]})),
    ("vqa_v2", "questions", json_of({"questions": [{"question_id": 1, "image_id": 1, "question": "a"}]})),
    ("vqa_v2", "annotations", json_of({"annotations": [{"question_id": 1, "answers": [{"answer": "a"}]}]})),
]


def damaged(data: bytes, random: Random) -> bytes:
    """Some bytes changed, lost, repeated or put in, or the end cut off."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        place, other = random.randrange(len(found) or 1), random.randrange(len(found) or 1)
        match random.randrange(6):
            case 0 | 1:
                found[place : place + 1] = random.randbytes(1)
            case 2:
                found[place:place] = random.randbytes(random.randrange(9))
            case 3:
                del found[place : place + random.randrange(50)]
            case 4:
                found[place : place + 8] = random.choice((b"\xff" * 8, bytes(8), b"\x80" + bytes(7), b"99999999"))
            case 5:
                found[place : place + 30] = found[other : other + 30]
    return bytes(found[: random.randrange(len(found) or 1)] if random.random() < 0.1 else found)


def config(kind: str, place: str, path: Path, folder: Path) -> dict[str, Any]:
    (folder / "questions.json").write_bytes(KINDS[7][2](None))
    (folder / "annotations.json").write_bytes(KINDS[8][2](None))
    (folder / "lines.jsonl").write_text('{"image": "0.png", "caption": "a"}\n{"image": "2.png", "caption": "a"}\n')
    whole: dict[str, dict[str, str]] = {
        "vqa_v2": {"questions": "questions.json", "annotations": "annotations.json", "images": "pictures"},
        "coco_captions": {"images": "pictures"},
        "jsonl": {"path": "lines.jsonl", "images": "pictures"},
        "csv": {"images": "pictures"},
    }
    places = {key: str(folder / value) for key, value in whole.get(kind, {}).items()}
    return {"kind": kind, **places, place.partition(".")[0]: str(path)}


@pytest.mark.parametrize(("kind", "place", "make"), KINDS)
def test_a_damaged_file_gives_rows_or_one_sentence(
    kind: str, place: str, make: Any, tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / {"path": "damaged", "annotations": "damaged", "questions": "damaged"}.get(place, place)
    for seed in range(NUM_DAMAGED):
        random = Random(f"{place}/{seed}")
        path.write_bytes(damaged(make(random), random))
        source = opened(**config(kind, place, path, tmp_path))
        try:
            for file in source.files():
                for row in source.rows(file):
                    if isinstance(row, SourceRow):
                        row.image.read()
        except RowFault as fault:
            assert "\n" not in fault.message
        except DataError as error:
            assert "\n" not in str(error)
