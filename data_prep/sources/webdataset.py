"""WebDataset tars: members of one key (`key.jpg` beside `key.json` or `key.txt`) are one example."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from data_prep.sources.archives import TarArchive
from data_prep.sources.base import BadRow, FileFacts, ImageRef, RowFault, SourceOptions, SourceRow, shown
from data_prep.sources.files import covering, own_version, row_files
from data_prep.sources.records import BAD_RECORD, Columns, Split, row_of
from infra.places import open_place

SUFFIXES = (".tar",)
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "tif", "tiff", "bmp")
ANNOTATION_EXTENSIONS = ("json", "txt", "cls")


class WebDatasetConfig(SourceOptions):
    kind: Literal["webdataset"]
    path: str
    """A tar, a folder of tars, or names with a `*`."""
    columns: Columns = Columns()
    """Of the `.json` members; a `.txt` member is the caption of its key, a `.cls` member its label."""
    label_field: str | None = None
    """The key of the `.json` members that makes a classify row beside the row of captions."""
    split: Split | None = None


class WebDataset:
    """Keys in the order of the tar: the row of a key's captions, then that of its label where `label_field` says so.
    A member that is no regular file of its own name is a bad row, members of other extensions are none."""

    def __init__(self, config: WebDatasetConfig) -> None:
        self.config = config

    def listing(self) -> list[FileFacts]:
        return row_files(self.config.path, SUFFIXES)

    def files(self) -> list[FileFacts]:
        return covering(self.listing(), self.config)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        for row, found in enumerate(self._found(file, TarArchive(open_place(file.uri)))):
            yield replace(found, row=row)

    def _found(self, file: FileFacts, tar: TarArchive) -> Iterator[SourceRow | BadRow]:
        for key, members in _by_key(tar.members).items():
            image_name = next((members[found] for found in IMAGE_EXTENSIONS if found in members), None)
            if image_name is None and not any(found in members for found in ANNOTATION_EXTENSIONS):
                continue
            try:
                if image_name is None:
                    raise RowFault("missing_file", "no picture has this key")
                read = partial(tar.read, image_name)
                image = ImageRef(f"{file.uri}#{image_name}", image_name, own_version(file), read)
                yield from self._rows_of(self._record(tar, members), image)
            except BAD_RECORD as error:
                yield BadRow(0, f"{file.name}#{shown(key)}", "unreadable_row", f"{type(error).__name__}: {error}")
            except RowFault as fault:
                yield BadRow(0, f"{file.name}#{shown(key)}", fault.reason, fault.message)
        for name, reason in tar.refused.items():
            yield BadRow(0, f"{file.name}#{shown(name)}", "refused_file", reason)

    def _rows_of(self, record: dict[str, Any], image: ImageRef) -> Iterator[SourceRow]:
        config = self.config
        first = row_of(0, record, image, config.columns, config.split)
        yield first
        if config.label_field is not None and first.task != "classify":
            columns = config.columns.model_copy(update={"label": config.label_field})
            yield row_of(0, record, image, columns, config.split, "classify")

    def _record(self, tar: TarArchive, members: dict[str, str]) -> dict[str, Any]:
        """What the annotation members of a key say, as if it were all in the `.json`."""
        texts = {"txt": self.config.columns.caption[-1], "cls": self.config.columns.label}
        record: dict[str, Any] = {
            column: tar.read(members[extension]).decode("utf-8-sig").strip()
            for extension, column in texts.items()
            if extension in members
        }
        if "json" in members:
            found = json.loads(tar.read(members["json"]).decode("utf-8-sig"))
            if not isinstance(found, dict):
                raise TypeError(f"a {type(found).__name__}, no object")
            record |= found
        return record


def _by_key(names: list[str]) -> dict[str, dict[str, str]]:
    """Member names by key and extension; a key ends at the first dot of the last component."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        if stem:
            found.setdefault(folder + slash + stem, {})[extension.lower()] = name
    return found
