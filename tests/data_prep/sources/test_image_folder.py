"""Image folders: a class per sub-folder, each a file of its own for the step's memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
from source_rows import good_rows, opened, versions

from infra.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Path:
    for number, name in enumerate(("dog/b.png", "dog/a.png", "cat/deep/c.png", "readme.txt", ".git/x", "cat/.hidden")):
        path = tmp_path / "classes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_picture(number))
    return tmp_path / "classes"


def test_pictures_have_the_label_of_their_folder(folder: Path, make_picture: Callable[[int], bytes]) -> None:
    rows = good_rows(opened(kind="image_folder", path=str(folder), split="train"))
    assert [(row.task, row.label, row.targets, row.image.name, row.split) for row in rows] == [
        ("classify", "cat", ("cat",), "cat/deep/c.png", "train"),
        ("classify", "dog", ("dog",), "dog/a.png", "train"),
        ("classify", "dog", ("dog",), "dog/b.png", "train"),
    ]
    assert rows[0].image.read() == make_picture(2)


def test_a_new_picture_changes_only_its_class(folder: Path) -> None:
    before = versions(opened(kind="image_folder", path=str(folder)))
    (folder / "dog" / "c.png").write_bytes(b"new")
    after = versions(opened(kind="image_folder", path=str(folder)))
    assert before["cat"] == after["cat"]
    assert before["dog"] != after["dog"]


@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_without_classes_is_one_sentence(missing: bool, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    if not missing:
        path.mkdir()
        (path / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=str(path)):
        opened(kind="image_folder", path=str(path)).listing()
