"""JSON Lines: one captioned image or one question per line, image paths relative to a folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from data_prep.sources.base import BadRow, SourceRow
from data_prep.sources.files import file_facts, folder_facts, reader


class JsonlConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["jsonl"]
    path: Path
    """Lines like {"image": "a.jpg", "captions": ["…"]} or {"image": "a.jpg", "question": "…", "answers": ["…"]};
    `caption` and `answer` take a single text, `split` and `attributes` are optional."""
    images: Path
    split: str | None = None


class Jsonl:
    def __init__(self, config: JsonlConfig) -> None:
        self.config = config

    def listing(self) -> list[dict[str, Any]]:
        return [file_facts(self.config.path, "lines"), *folder_facts(self.config.images)]

    def rows(self, start: int = 0) -> Iterator[SourceRow | BadRow]:
        with self.config.path.open("rb") as lines:
            for row, line in enumerate(line for line in lines if line.strip()):
                if row >= start:
                    yield self._row(row, line)

    def _row(self, row: int, line: bytes) -> SourceRow | BadRow:
        try:
            found = json.loads(line.decode("utf-8-sig"))
            question = found.get("question")
            single, many = ("answer", "answers") if question is not None else ("caption", "captions")
            targets = found[many] if many in found else [found[single]]
            if not isinstance(targets, list):
                raise TypeError(f"{many} is a {type(targets).__name__}")
            return SourceRow(
                row=row,
                source="jsonl",
                image=reader(self.config.images, str(found["image"])),
                image_uri=str(found["image"]),
                task="vqa" if question is not None else "caption",
                prompt=str(question or ""),
                targets=tuple(str(target) for target in targets if target is not None),
                split=found.get("split", self.config.split),
                attributes={str(key): str(value) for key, value in found.get("attributes", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            expected = "an object with image and either caption(s) or question and answer(s)"
            message = f"{type(error).__name__}: {error}; expected {expected}"
            return BadRow(row, "jsonl", f"{self.config.path.name}:{row}", "unreadable_row", message)
