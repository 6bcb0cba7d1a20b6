"""COCO captions: one JSON of images and annotations beside a folder of pictures. Only this file knows its keys."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

from data_prep.sources.base import BadRow, FileFacts, SourceOptions, SourceRow
from data_prep.sources.files import covering, not_of_this_kind, one_file, read_json
from data_prep.sources.image_files import BesideImages, open_images
from data_prep.sources.records import Split

EXPECTED = "COCO captions JSON with images[id, file_name] and annotations[image_id, caption]"


class CocoCaptionsConfig(SourceOptions):
    kind: Literal["coco_captions"]
    annotations: str
    images: str
    """A folder, or a `.tar` or `.zip` archive."""
    split: Split | None = None
    """COCO has one file per split; None leaves it to the dataset's split rule."""


class CocoCaptions(BesideImages):
    """One row per captioned image, with all its captions as targets. Images without captions are no rows."""

    def __init__(self, config: CocoCaptionsConfig) -> None:
        self.config = config
        self._images = open_images(config.images)

    def listing(self) -> list[FileFacts]:
        return [one_file(self.config.annotations, "annotations"), *self._images.listing()]

    def files(self) -> list[FileFacts]:
        return covering([one_file(self.config.annotations, "annotations")], self.config, self._images)

    def rows(self, file: FileFacts) -> Iterator[SourceRow | BadRow]:
        names, captions = _read(file)
        for row, image_id in enumerate(captions):
            yield SourceRow(
                row=row,
                image=self._images.ref(names.get(image_id, f"(image {image_id} is not listed)")),
                task="caption",
                targets=tuple(captions[image_id]),
                split=self.config.split,
            )


def _read(file: FileFacts) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File names and captions by image, in order of ids: the order of the file says nothing."""
    found = read_json(file, EXPECTED)
    captions: dict[int, list[str]] = defaultdict(list)
    try:
        names = {image["id"]: str(image["file_name"]) for image in found["images"]}
        for annotation in found["annotations"]:
            captions[annotation["image_id"]].append(" ".join(str(annotation["caption"] or "").split()))
        return names, dict(sorted(captions.items()))
    except (ValueError, KeyError, TypeError) as error:
        raise not_of_this_kind(file, error, EXPECTED) from error
