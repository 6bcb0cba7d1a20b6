"""The same rows and the same pictures from disk, from S3 and from the hub."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import hub
from source_rows import all_rows, good_rows, opened, versions

from data_prep.sources import SourceRow
from infra.errors import ConfigError, DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Path:
    """A file or folder for every kind of source, with three pictures in each."""
    pictures = [make_picture(number) for number in range(3)]
    root = tmp_path / "root"
    for place in ("images", "classes/a", "classes/b"):
        (root / place).mkdir(parents=True)
    for number, data in enumerate(pictures):
        (root / "images" / f"{number}.png").write_bytes(data)
        (root / "classes" / "ab"[number % 2] / f"{number}.png").write_bytes(data)
    names = [f"{number}.png" for number in range(3)]
    (root / "lines.jsonl").write_text("".join(f'{{"image": "{name}", "caption": "a"}}\n' for name in names))
    (root / "table.csv").write_text("image,label\n" + "".join(f"{name},cat\n" for name in names))
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [{"image_id": number, "caption": "a"} for number in range(3)]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    questions = [{"question_id": number, "image_id": number, "question": "what?"} for number in range(3)]
    answers = [{"question_id": number, "answers": [{"answer": "this"}]} for number in range(3)]
    (root / "questions.json").write_text(json.dumps({"questions": questions}))
    (root / "answers.json").write_text(json.dumps({"annotations": answers}))
    table = pa.table({"image": [{"bytes": data, "path": None} for data in pictures], "label": ["x", "y", "z"]})
    pq.write_table(table, root / "train-0.parquet", row_group_size=2)
    with tarfile.open(root / "web.tar", "w") as tar, tarfile.open(root / "images.tar", "w") as images_tar:
        for number, data in enumerate(pictures):
            members = {f"{number}.png": data, f"{number}.txt": b"a"}
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                if name.endswith(".png"):
                    images_tar.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for number, data in enumerate(pictures):
            archive.writestr(f"{number}.png", data)
    return root


SOURCES: list[dict[str, Any]] = [
    {"kind": "jsonl", "path": "lines.jsonl", "images": "images"},
    {"kind": "jsonl", "path": "*.jsonl", "images": "images.tar"},
    {"kind": "jsonl", "path": "lines.jsonl", "images": "images.zip"},
    {"kind": "csv", "path": "table.csv", "images": "images"},
    {"kind": "coco_captions", "annotations": "captions.json", "images": "images"},
    {
        "kind": "vqa_v2",
        "questions": "questions.json",
        "annotations": "answers.json",
        "images": "images",
        "image_name": "{image_id}.png",
    },
    {"kind": "webdataset", "path": "web.tar"},
    {"kind": "hf_parquet", "path": "train-*.parquet"},
    {"kind": "image_folder", "path": "classes"},
]


def at(root: str, config: dict[str, Any]) -> dict[str, Any]:
    places = {"path", "images", "annotations", "questions"}
    return {key: f"{root}/{value}" if key in places else value for key, value in config.items()}


def told(rows: list[SourceRow]) -> list[tuple[Any, ...]]:
    return [(row.row, row.task, row.prompt, row.targets, row.label, row.image.read()) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("config", SOURCES)
def test_s3_gives_what_the_disk_gives(config: dict[str, Any], folder: Path, upload: Callable[[Path], str]) -> None:
    remote = opened(**at(upload(folder), config))
    local = opened(**at(str(folder), config))
    assert told(good_rows(remote)) == told(good_rows(local))
    assert len(good_rows(remote)) == 3
    assert [file.name for file in remote.listing()] == [file.name for file in local.listing()]
    assert all(row.image.uri.startswith("s3://") for row in good_rows(remote))


@pytest.mark.parametrize("config", SOURCES)
def test_the_hub_gives_what_the_disk_gives(
    config: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with hub(COMMIT, files) as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        remote = opened(**at(f"hf://datasets/org/name@{COMMIT}", config))
        assert told(good_rows(remote)) == told(good_rows(opened(**at(str(folder), config))))
        assert all(COMMIT in file.uri for file in remote.files())


@pytest.mark.slow
def test_a_new_object_changes_the_version_and_an_equal_one_does_not(
    folder: Path, upload: Callable[[Path], str]
) -> None:
    config = at(upload(folder), SOURCES[0])
    before = versions(opened(**config))
    assert at(upload(folder), SOURCES[0]) == config
    assert versions(opened(**config)) == before
    (folder / "images" / "1.png").write_bytes(b"another")
    upload(folder)
    assert versions(opened(**config)) != before


@pytest.mark.slow
def test_truncated_objects_are_errors(folder: Path, upload: Callable[[Path], str]) -> None:
    for name in ("web.tar", "train-0.parquet", "images.zip"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1500])
    root = upload(folder)
    for config in (SOURCES[2], SOURCES[6], SOURCES[7]):
        with pytest.raises(DataError, match="s3://"):
            all_rows(opened(**at(root, config)))


@pytest.mark.parametrize("place", ["path", "images"])
def test_a_branch_of_the_hub_is_refused(place: str, folder: Path) -> None:
    config = at(str(folder), SOURCES[0]) | {place: "hf://datasets/org/name@main/data"}
    with pytest.raises(ConfigError, match="commit"):
        opened(**config).listing()
