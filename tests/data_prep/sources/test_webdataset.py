"""WebDataset: members of one key are one example, whatever else lies in the tar."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_rows import all_rows, bad_rows, good_rows, opened, versions

from data_prep.sources import BadRow, SourceRow
from infra.errors import DataError


@pytest.fixture
def tar(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def write(members: dict[str, Any], name: str = "a.tar") -> dict[str, Any]:
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "tars" / name, "w") as archive:
            for member, found in members.items():
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return {"kind": "webdataset", "path": str(tmp_path / "tars")}

    return write


Tar = Callable[..., dict[str, Any]]


def test_a_key_with_captions_is_a_row_and_its_label_another(tar: Tar, make_picture: Callable[[int], bytes]) -> None:
    members = {
        "x/1.jpg": make_picture(1),
        "x/1.json": {"captions": ["a", "b"], "label": "cat"},
        "x/2.json": {"caption": "c", "label": "dog"},
        "x/2.PNG": make_picture(2),
    }
    rows = good_rows(opened(**tar(members), label_field="label", split="val"))
    assert [(row.task, row.targets, row.label, row.image.name, row.split) for row in rows] == [
        ("caption", ("a", "b"), None, "x/1.jpg", "val"),
        ("classify", ("cat",), "cat", "x/1.jpg", "val"),
        ("caption", ("c",), None, "x/2.PNG", "val"),
        ("classify", ("dog",), "dog", "x/2.PNG", "val"),
    ]
    assert [row.image.read() for row in rows[1:3]] == [make_picture(1), make_picture(2)]
    assert len(good_rows(opened(**tar(members)))) == 2


def test_a_text_is_a_caption_and_a_class_a_label(tar: Tar) -> None:
    rows = good_rows(opened(**tar({"1.png": b"", "1.txt": b"a dog\n", "2.png": b"", "2.cls": b"7"})))
    assert [(row.task, row.targets) for row in rows] == [("caption", ("a dog",)), ("classify", ("7",))]
    (mapped,) = good_rows(opened(**tar({"1.png": b"", "1.txt": b"a dog"}), columns={"caption": "text"}))
    assert mapped.targets == ("a dog",)


def test_a_label_alone_is_one_row(tar: Tar) -> None:
    (row,) = good_rows(opened(**tar({"1.png": b"", "1.json": {"label": "cat"}}), label_field="label"))
    assert row.task == "classify"


def test_incomplete_keys_are_bad_rows_and_foreign_members_none(tar: Tar) -> None:
    members: dict[str, Any] = {
        "only.jpg": b"",
        "torn.jpg": b"",
        "torn.json": b"{",
        "list.jpg": b"",
        "list.json": [1],
        "latin.jpg": b"",
        "latin.txt": b"\xff",
        "alone.json": {"caption": "a"},
        "vector.npy": b"\x93NUMPY",
        "pickled.pyd": b"cos\nsystem\n",
        ".hidden": b"",
        "good.jpg": b"",
        "good.txt": b"a",
    }
    rows = all_rows(opened(**tar(members)))
    assert [(row.name, row.reason) for row in rows if isinstance(row, BadRow)] == [
        ("a.tar#only", "unreadable_row"),
        ("a.tar#torn", "unreadable_row"),
        ("a.tar#list", "unreadable_row"),
        ("a.tar#latin", "unreadable_row"),
        ("a.tar#alone", "missing_file"),
    ]
    assert [row.targets for row in rows if isinstance(row, SourceRow)] == [("a",)]


def test_a_key_without_the_label_keeps_its_captions(tar: Tar) -> None:
    rows = all_rows(opened(**tar({"1.png": b"", "1.json": {"caption": "a"}}), label_field="label"))
    assert [type(row) for row in rows] == [SourceRow, BadRow]


def test_a_member_that_is_no_regular_file_is_a_bad_row(tar: Tar) -> None:
    source = tar({"1.png": b"", "1.txt": b"a"})
    with tarfile.open(Path(source["path"]) / "a.tar", "a") as archive:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (bad,) = bad_rows(opened(**source))
    assert (bad.row, bad.name, bad.reason) == (1, "a.tar#2.png", "refused_file")


def test_a_new_tar_leaves_the_others_as_they_were(tar: Tar) -> None:
    source = tar({"1.png": b"", "1.txt": b"a"})
    before = versions(opened(**source))
    tar({"2.png": b"", "2.txt": b"b"}, "b.tar")
    after = versions(opened(**source))
    assert after["a.tar"] == before["a.tar"]
    assert list(after) == ["a.tar", "b.tar"]
    first = good_rows(opened(**source))[0].image
    assert first.version == good_rows(opened(**source, columns={"label": "class"}))[0].image.version, "same bytes"


def test_a_truncated_tar_is_an_error(tar: Tar) -> None:
    source = tar({"1.png": b"x" * 2000, "1.txt": b"a"})
    path = Path(source["path"]) / "a.tar"
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(DataError, match=r"a\.tar"):
        all_rows(opened(**source))
