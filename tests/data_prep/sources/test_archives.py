"""Archives from outside: regular files with relative names, and nothing else, is ever read."""

import errno
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from far_place import FarPlace
from source_rows import fault_of, good_rows, opened

from data_prep.sources.archives import TarArchive, ZipArchive, open_archive
from data_prep.sources.base import RowFault
from data_prep.sources.image_files import open_images
from infra.errors import ConfigError, DataError, PlatformError
from infra.places import LocalPlace, open_place


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def reason(archive: Path, name: str) -> str:
    with pytest.raises(RowFault) as caught:
        open_archive(str(archive)).read(name)
    return caught.value.reason


HOSTILE = [
    ("link.png", special("link.png", tarfile.SYMTYPE, "/etc/passwd")),
    ("hard.png", special("hard.png", tarfile.LNKTYPE, "good.png")),
    ("pipe", special("pipe", tarfile.FIFOTYPE)),
    ("device", special("device", tarfile.BLKTYPE)),
    ("console", special("console", tarfile.CHRTYPE)),
    ("old.png", special("old.png", tarfile.CONTTYPE)),
    ("../up.png", tarfile.TarInfo("../up.png")),
    ("a/../../up.png", tarfile.TarInfo("a/../../up.png")),
    ("/etc/passwd", tarfile.TarInfo("/etc/passwd")),
]


def test_hostile_members_are_refused_and_their_neighbours_read(tmp_path: Path) -> None:
    """Shown to fail, member by member, with `_refusal_of_tar` answering None."""
    members: list[tuple[tarfile.TarInfo | str, bytes]] = [(special(".", tarfile.DIRTYPE), b""), ("good.png", b"good")]
    members += [(member, b"") for _, member in HOSTILE]
    path = tar_of(tmp_path / "a.tar", [*members, ("./sub//last.png", b"last")])
    archive = open_archive(str(path))
    assert archive.members == ["good.png", "sub/last.png"]
    assert list(archive.refused) == [name for name, _ in HOSTILE]
    assert [archive.read(name) for name in archive.members] == [b"good", b"last"]
    for name, _ in HOSTILE:
        assert reason(path, name) == "refused_file"
    assert reason(path, "none.png") == "missing_file"


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("bomb.png")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50), "GNU.sparse.numblocks": "1"}
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert reason(path, "bomb.png") == "refused_file"


@pytest.mark.parametrize("keep", [1, 300, 600, 1024, 1100, 1600])
def test_a_truncated_tar_is_an_error_and_no_shorter_dataset(keep: int, tmp_path: Path) -> None:
    """Shown to fail at a member's border by leaving out the look at the closing block, which tarfile does not need."""
    path = tar_of(tmp_path / "a.tar", [("a", b"x" * 512), ("b", b"y" * 100)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="expected a whole archive"):
        open_archive(str(path)).members  # noqa: B018 (the index is made when it is asked for)


def test_a_tar_damaged_between_members_is_an_error(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("a", b"x"), ("b", b"y"), ("c", b"z")])
    data = bytearray(path.read_bytes())
    data[1024 + 10] ^= 1  # in the header of b
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        open_archive(str(path)).members  # noqa: B018


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_not_inflated(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.addfile(tarfile.TarInfo("a"))
    with pytest.raises(DataError):
        open_archive(str(path)).members  # noqa: B018


def header(name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header whose size may be a lie."""
    info = special(name, kind)
    info.size = size_bytes
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size_bytes", [-512, -1024, -(2**40)])
def test_a_negative_size_does_not_go_round_for_ever(size_bytes: int, tmp_path: Path) -> None:
    """Shown to hang (cut off after 20 s) without the look at the position."""
    path = tmp_path / "a.tar"
    path.write_bytes(header("good", 0) + header("a", size_bytes) + bytes(2048))
    with pytest.raises(DataError):
        open_archive(str(path)).members  # noqa: B018


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size_bytes", [2**33, -1024])
def test_an_extended_header_of_any_size_is_not_read_whole(kind: bytes, size_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("good", 0) + header("x", size_bytes, kind) + bytes(2048))
    with pytest.raises(DataError, match="a header says"):
        open_archive(str(path)).members  # noqa: B018


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(header("huge", 2**35))
        file.seek(512 + 2**35)
        file.write(bytes(1024))
    assert reason(path, "huge") == "too_large"


def test_of_two_members_of_one_name_the_last_counts_as_when_unpacking(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("a", b"first"), ("a", b"last")])
    assert open_archive(str(path)).read("a") == b"last"


def zip_of(path: Path, entries: list[tuple[str, bytes, int]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def test_hostile_entries_of_a_zip_are_refused(tmp_path: Path) -> None:
    entries = [
        ("good.png", b"good", stat.S_IFREG | 0o644),
        ("plain.png", b"plain", 0),
        ("link.png", b"/etc/passwd", stat.S_IFLNK | 0o777),
        ("../up.png", b"x", 0),
        ("/root.png", b"x", 0),
        ("folder/", b"", 0),
    ]
    archive = open_archive(str(zip_of(tmp_path / "a.zip", entries)))
    assert archive.members == ["good.png", "plain.png"]
    assert list(archive.refused) == ["link.png", "../up.png", "/root.png"]
    assert archive.read("plain.png") == b"plain"


def test_a_zip_bomb_is_inflated_up_to_the_limit_only(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", [("bomb.png", bytes(65 * 2**20), 0)])
    assert path.stat().st_size < 100_000
    assert reason(path, "bomb.png") == "too_large"


def test_a_zip_that_lies_about_an_entry_costs_that_entry(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", [("a.png", b"a" * 1000, 0), ("b.png", b"b", 0)])
    data = bytearray(path.read_bytes())
    data[35 + 8] ^= 0xFF  # inside the deflated bytes of the first entry
    path.write_bytes(data)
    assert reason(path, "a.png") == "unreadable_file"
    assert ZipArchive(open_place(str(path))).read("b.png") == b"b"


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"no zip at all" * 100])
def test_what_is_no_zip_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match="expected a whole archive"):
        open_archive(str(path)).members  # noqa: B018


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_pictures_are_read_from_an_archive_as_from_a_folder(
    suffix: str, tmp_path: Path, make_picture: Callable[[int], bytes]
) -> None:
    path, data = tmp_path / f"images{suffix}", make_picture(1)
    if suffix == ".tar":
        tar_of(path, [("images/1.png", data), (special("images/2.png", tarfile.SYMTYPE, "1.png"), b"")])
    else:
        zip_of(path, [("images/1.png", data, 0), ("images/2.png", b"1.png", stat.S_IFLNK)])
    lines = "".join(f'{{"image": "images/{number}.png", "caption": "a"}}\n' for number in (1, 2, 3))
    (tmp_path / "lines.jsonl").write_text(lines)
    source = opened(kind="jsonl", path=str(tmp_path / "lines.jsonl"), images=str(path))
    first, link, missing = good_rows(source)
    assert first.image.read() == data
    assert first.image.uri == f"{path}#images/1.png"
    assert [fault_of(link), fault_of(missing)] == ["missing_file", "missing_file"]
    with pytest.raises(RowFault, match="not a regular file"):
        link.image.read()
    before = first.image.version
    os.utime(path, ns=(1, 1))
    assert good_rows(opened(**source.config.model_dump()))[0].image.version != before  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_a_remote_archive_is_copied_once_however_its_members_are_asked_for(suffix: str, tmp_path: Path) -> None:
    members = [(str(number), b"x" * number) for number in range(9)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".tar":
        tar_of(path, [*members])
    else:
        zip_of(path, [(name, data, 0) for name, data in members])
    reads: list[str] = []
    place = FarPlace(LocalPlace(path), reads)
    archive = TarArchive(place) if suffix == ".tar" else ZipArchive(place)
    for name, data in reversed(members):
        assert archive.read(name) == data
    assert reads == [f"open a{suffix}"]


def test_no_room_for_a_remote_archive_is_a_platform_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    place = FarPlace(LocalPlace(tar_of(tmp_path / "a.tar", [("a", b"x")])), [])
    with pytest.raises(PlatformError, match="No space left"):
        TarArchive(place).read("a")


def test_listing_an_archive_does_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(b"no tar at all")
    (facts,) = open_images(str(path)).listing()
    assert facts.name == "images.tar"
    with pytest.raises(DataError):
        open_images(str(path)).ref("a")
    with pytest.raises(ConfigError):
        open_images(str(tmp_path / "none.tar")).listing()
