"""Hugging Face `datasets`, used well: `map` over file paths with a process per core, then `to_parquet` with the bytes.

Runs in `.venv-bench`. Each file is read once, and decoded whole so that a file cut short is found. Nothing is cached
from run to run, progress bars are off.
"""

import hashlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import imagehash
from PIL import Image
from sides import Timed, serve

BATCH_SIZE = 250
"""The fastest that was tried, beside single rows and batches of 100. Content-defined chunking makes no difference."""
FEATURES = datasets.Features(
    {
        "name": datasets.Value("string"),
        "image": datasets.Value("binary"),
        "digest": datasets.Value("string"),
        "width_px": datasets.Value("int32"),
        "height_px": datasets.Value("int32"),
        "phash": datasets.Value("string"),
        "problem": datasets.Value("string"),
    }
)


def facts_of(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    rows = [facts(Path(path)) for path in batch["path"]]
    return {name: [row[name] for row in rows] for name in FEATURES}


def facts(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = {"name": path.name, "image": data, "digest": hashlib.sha256(data).hexdigest()}
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
            phash = str(imagehash.phash(image))
    except OSError as error:
        return {**found, "width_px": None, "height_px": None, "phash": None, "problem": str(error)}
    return {**found, "width_px": width, "height_px": height, "phash": phash, "problem": None}


def ingest(folder: str, num_processes: int) -> dict[str, Any]:
    """Seconds from the list of paths to the closed Parquet file, and the names of the files that are cut short."""
    paths = sorted(str(path) for path in (Path(folder) / "images").iterdir())
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as scratch:
        datasets.config.HF_DATASETS_CACHE = Path(scratch) / "cache"
        with Timed() as timed:
            mapped = datasets.Dataset.from_dict({"path": paths}).map(
                facts_of,
                batched=True,
                batch_size=BATCH_SIZE,
                writer_batch_size=BATCH_SIZE,
                num_proc=num_processes,
                remove_columns=["path"],
                features=FEATURES,
                load_from_cache_file=False,
                keep_in_memory=False,
            )
            mapped.to_parquet(Path(scratch) / "images.parquet")
        problems = mapped.select_columns(["name", "problem"]).to_list()
        del mapped
    shutil.rmtree(scratch, ignore_errors=True)
    bad = sorted(row["name"] for row in problems if row["problem"] is not None)
    return {"seconds": timed.seconds, "cpu_seconds": timed.cpu_seconds, "images": len(problems) - len(bad), "bad": bad}


if __name__ == "__main__":
    datasets.disable_progress_bars()
    serve({"ingest": ingest}, ("datasets", "pyarrow", "pillow", "ImageHash", "numpy"))
