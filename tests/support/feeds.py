"""Two JSONL sources of every kind of row, in an earlier and a later state; and what their datasets are."""

import json
import os
from pathlib import Path
from typing import Any

from stored_parts import noise

Line = dict[str, Any] | str


def write_feed(folder: Path, lines: list[Line], pictures: dict[str, bytes], clock: int) -> dict[str, Any]:
    """A source; `clock` is the time of change of its file of lines, so that a change within a tick is seen."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        if not (images / name).exists():
            (images / name).write_bytes(data)
    path = folder / "lines.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    os.utime(path, ns=(0, clock * 10**9))
    return {"kind": "jsonl", "path": str(path), "images": str(images), "name": folder.name}


def captions(*numbers: int) -> list[Line]:
    return [{"image": f"{number}.png", "caption": f"noise {number}"} for number in numbers]


PICTURES = {f"{number}.png": noise(number) for number in range(16)} | {"torn.png": noise(99)[:300]}
BAD: list[Line] = [
    {"image": "lost.png", "caption": "no file"},
    {"image": "torn.png", "caption": "half a file"},
    {"image": "1.png", "caption": ""},
    "no json",
]


def earlier_feeds(folder: Path) -> list[dict[str, Any]]:
    """Six images, the last three in both sources, each row of the second one doubled; one bad row."""
    one = write_feed(folder / "one", [*captions(0, 1, 2, 3, 4, 5), BAD[0]], PICTURES, 1)
    again: list[Line] = [{"image": f"{n}.png", "caption": f"again {n}"} for n in (3, 4, 5)]
    return [one, write_feed(folder / "two", [*again, *again], PICTURES, 1)]


def later_feeds(folder: Path) -> list[dict[str, Any]]:
    """Row 1 of the first source is withdrawn and its image with it, as is row 3, whose image the second one shows;
    seven images are new in the first, two of them in the second as well; bad rows of every kind."""
    lines = [*captions(0, 2, 4, 5), *BAD[:2], *captions(6, 7, 8, 9, 6), BAD[2], *captions(10, 11, 12), BAD[3]]
    one = write_feed(folder / "one", lines, PICTURES, 2)
    again: list[Line] = [{"image": f"{n}.png", "caption": f"again {n}"} for n in (3, 4, 5, 11, 12)]
    return [one, write_feed(folder / "two", [*again, *again, *captions(13)], PICTURES, 2)]
