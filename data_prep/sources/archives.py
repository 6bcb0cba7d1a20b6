"""Tar and zip files from outside, read member by member and never unpacked.

Only regular files with relative names are members. Links, devices, sparse files, absolute names and `..` are refused,
compressed tars too: nothing is ever written, executed, or inflated beyond MAX_MEMBER_BYTES.
"""

import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol, cast

from data_prep.sources.base import RowFault, shown
from infra.errors import DataError, PlatformError
from infra.places import Place, is_remote, open_place

MAX_MEMBER_BYTES = 64 * 2**20
"""Of one picture or one annotation. What is larger is not read."""
MAX_HEADER_BYTES = 2**20
"""Of a tar's extended header, which tarfile would read whole whatever it says of its size."""
_UNREADABLE_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
    IndexError,
    OSError,
)
"""What Python's reader raises at bytes that are no zip."""
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class Archive(Protocol):
    """Names in the order of the archive; the index is made once, at the first question."""

    @property
    def members(self) -> list[str]: ...
    @property
    def refused(self) -> dict[str, str]:
        """Names that are there and are not read, with the reason."""

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises RowFault where there is no such member, or not to be read."""


def open_archive(uri: str) -> Archive:
    """The archive at a `.tar` or `.zip` URI."""
    return ZipArchive(open_place(uri)) if uri.endswith(".zip") else TarArchive(open_place(uri))


def is_archive(uri: str) -> bool:
    return uri.endswith((".tar", ".zip"))


class TarArchive:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self.refused: dict[str, str] = {}

    @property
    def members(self) -> list[str]:
        return list(self._spans)

    def read(self, name: str) -> bytes:
        with self._lock:
            if name not in self._spans:
                raise _no_member(name, self.refused)
            offset, size_bytes = self._spans[name]
            if size_bytes > MAX_MEMBER_BYTES:
                raise too_large(name, size_bytes)
            self._file.seek(offset)
            data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise _broken(self._place.uri, f"{name} ends after {len(data)} of {size_bytes} bytes")
        return data

    @cached_property
    def _file(self) -> BinaryIO:
        return _at_hand(self._place)

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        """(offset, size) by name; of several members of one name the last counts, as when unpacking."""
        spans: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _HeadersOnly(self._file)), mode="r:") as tar:
                position = -1
                while (member := tar.next()) is not None:
                    if tar.offset <= position:  # a negative size, which would have tarfile go round for ever
                        raise tarfile.ReadError(f"{shown(member.name)} ends before it begins")
                    position = tar.offset
                    if reason := _refusal_of_tar(member):
                        self.refused[member.name] = reason
                    elif not member.isdir():
                        spans[_plain(member.name)] = (member.offset_data, member.size)
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                end = tar.offset
            self._file.seek(end)
            if self._file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it does not end like a tar: cut short, or damaged in the middle")
        except (tarfile.TarError, ValueError, OverflowError, OSError, RecursionError) as error:
            raise _broken(self._place.uri, str(error)) from error
        return spans


class _HeadersOnly:
    """The file as tarfile may see it, which reads nothing but headers."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header says it has {size} bytes; {MAX_HEADER_BYTES} are the most")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class ZipArchive:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self.refused: dict[str, str] = {}

    @property
    def members(self) -> list[str]:
        return list(self._infos)

    def read(self, name: str) -> bytes:
        with self._lock:
            if name not in self._infos:
                raise _no_member(name, self.refused)
            try:
                with self._zip.open(self._infos[name]) as member:
                    data = member.read(MAX_MEMBER_BYTES + 1)
            except _UNREADABLE_ZIP as error:
                raise RowFault("unreadable_file", f"{shown(name)}: {error} in the zip") from error
        if len(data) > MAX_MEMBER_BYTES:
            raise too_large(name, self._infos[name].file_size)
        return data

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(_at_hand(self._place))
        except _UNREADABLE_ZIP as error:
            raise _broken(self._place.uri, str(error)) from error

    @cached_property
    def _infos(self) -> dict[str, zipfile.ZipInfo]:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if reason := _refusal_of_zip(info):
                self.refused[info.filename] = reason
            elif not info.filename.endswith("/"):
                infos[_plain(info.filename)] = info
        return infos


def _at_hand(place: Place) -> BinaryIO:
    """The archive as a local file. A remote one is copied, once and to a file without a name: its members are many,
    small, and asked for in any order, and each would cost a request."""
    file = place.open()
    if not is_remote(place.uri):
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the archive)
    try:
        with file:
            shutil.copyfileobj(file, copy, 2**20)
        copy.seek(0)
    except OSError as error:
        raise PlatformError(
            f"{place.uri}: cannot be copied to {tempfile.gettempdir()} ({error.strerror or error}); expected room for "
            "the whole archive. Make room there or set TMPDIR, then start again: finished work is kept."
        ) from error
    return cast(BinaryIO, copy)


def too_large(name: str, size_bytes: int) -> RowFault:
    return RowFault("too_large", f"{shown(name)}: {size_bytes} bytes; expected at most {MAX_MEMBER_BYTES}")


def _plain(name: str) -> str:
    """One spelling of a relative name: `./a//b` is `a/b`."""
    return PurePosixPath(name).as_posix()


def _refusal_of_tar(member: tarfile.TarInfo) -> str | None:
    if member.isdir():
        return None
    if member.type not in _FILE_TYPES or member.issparse():
        return "not a regular file"
    return _refusal_of_name(member.name)


def _refusal_of_zip(info: zipfile.ZipInfo) -> str | None:
    if info.filename.endswith("/"):
        return None
    file_type = stat.S_IFMT(info.external_attr >> 16)
    if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "not a regular file"
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "neither stored nor deflated"
    return _refusal_of_name(info.filename)


def _refusal_of_name(name: str) -> str | None:
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in name:
        return "its name is no place in the archive"
    return None


def _no_member(name: str, refused: dict[str, str]) -> RowFault:
    if name in refused:
        return RowFault("refused_file", f"{shown(name)}: {refused[name]}")
    return RowFault("missing_file", f"{shown(name)}: no such file")


def _broken(uri: str, reason: str) -> DataError:
    return DataError(
        f"{uri}: {' '.join(reason.split())}; expected a whole archive, tars uncompressed. Pack or copy it again."
    )
