"""The images of the benchmark: real photos, multiplied by a comment segment that makes each file another one."""

import json
import shutil
from pathlib import Path

import numpy as np

NUM_TRUNCATED_PER_THOUSAND = 2


def photo_folder(root: Path, photos: Path, num_images: int, some_truncated: bool = False) -> Path:
    """A folder with `images/` and `lines.jsonl` (one caption each); where it is said, some files are cut short.

    A copy differs from its photo in a comment only, so that its digest is its own while the work of decoding is that
    of a real photo. Photos have neighbours of equal perceptual hash, so all are in one split. Made once."""
    folder = root / f"photos-{num_images}{'-some-truncated' if some_truncated else ''}"
    if (folder / "lines.jsonl").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    originals = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))]
    lines = []
    for number in range(num_images):
        data = with_comment(originals[number % len(originals)], f"copy {number}")
        name = f"{number:07d}.jpg"
        (folder / "images" / name).write_bytes(
            data[: len(data) * 6 // 10] if some_truncated and is_truncated(number) else data
        )
        lines.append(json.dumps({"image": name, "caption": f"photo {number}", "split": "train"}) + "\n")
    (folder / "lines.jsonl").write_text("".join(lines))
    return folder


def is_truncated(number: int) -> bool:
    return number % (1000 // NUM_TRUNCATED_PER_THOUSAND) == 7


def truncated_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir() if is_truncated(int(path.stem)))


def with_comment(jpeg: bytes, comment: str) -> bytes:
    """The same picture with a COM segment behind its start marker."""
    assert jpeg[:2] == b"\xff\xd8", "a JPEG begins with its start marker"
    text = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def thumbnail_folder(root: Path, num_images: int) -> Path:
    """Many tiny pictures of noise: for costs that follow the number of images or shards, not their pixels."""
    import io

    from PIL import Image

    folder = root / f"thumbnails-{num_images}"
    if (folder / "lines.jsonl").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(num_images):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        (folder / "images" / f"{number:07d}.png").write_bytes(buffer.getvalue())
        line = {"image": f"{number:07d}.png", "caption": f"noise {number}", "split": "train"}
        lines.append(json.dumps(line) + "\n")
    (folder / "lines.jsonl").write_text("".join(lines))
    return folder
