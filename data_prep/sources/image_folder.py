"""A folder of pictures with one sub-folder per class."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from data_prep.sources.base import BadRow, FileFacts, SourceOptions, SourceRow, fingerprint_facts
from data_prep.sources.files import covering
from data_prep.sources.image_files import BesideImages, FolderImages
from data_prep.sources.records import Split
from infra.digests import digest_json
from infra.errors import ConfigError
from infra.places import open_place


class ImageFolderConfig(SourceOptions):
    kind: Literal["image_folder"]
    path: str
    split: Split | None = None
    """Where the splits lie in folders of their own, name each as a source."""


class ImageFolder(BesideImages):
    """One row per file below a class's folder, in order of names; hidden files and files beside the classes are none.

    A class is a file of this source, so that a new picture has only its own class looked at again."""

    def __init__(self, config: ImageFolderConfig) -> None:
        self.config = config
        self._images = FolderImages(open_place(config.path))

    def listing(self) -> list[FileFacts]:
        return [picture for pictures in self._classes.values() for picture in pictures]

    def files(self) -> list[FileFacts]:
        folder = open_place(self.config.path)
        files = [
            FileFacts(
                uri=folder.at(label).uri,
                name=label,
                size_bytes=sum(picture.size_bytes for picture in pictures),
                version=digest_json(fingerprint_facts(pictures)),
            )
            for label, pictures in self._classes.items()
        ]
        return covering(files, self.config)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        for row, picture in enumerate(self._classes[file.name]):
            yield SourceRow(
                row=row,
                image=self._images.ref(picture.name),
                task="classify",
                targets=(file.name,),
                split=self.config.split,
                label=file.name,
            )

    @cached_property
    def _classes(self) -> dict[str, list[FileFacts]]:
        classes: dict[str, list[FileFacts]] = defaultdict(list)
        for picture in self._images.listing():
            label, slash, rest = picture.name.partition("/")
            if slash and not any(part.startswith(".") for part in (label, *rest.split("/"))):
                classes[label].append(picture)
        if not classes:
            raise ConfigError(
                f"{self.config.path}: no picture lies in a sub-folder; expected one sub-folder per class. "
                "Check the path in the recipe's ingest.sources."
            )
        return dict(classes)
