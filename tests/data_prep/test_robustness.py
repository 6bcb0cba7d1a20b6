"""690 odd, broken and hostile files of the world through the pool, within the limits that the issue names."""

import io
import json
import tarfile
import warnings
from pathlib import Path

import pytest
from PIL import Image

from data_prep.decode_pool import DecodePool, Inspected
from data_prep.images import FORMATS, MAX_PIXELS
from data_prep.sources.base import RowFault

REASONS = {"format_not_allowed", "too_many_pixels", "truncated", "unreadable_image"}
"""Those that a decoder tells. None of these files may take too much time or memory, or end a process."""


@pytest.mark.shared_data
def test_every_file_of_the_world_is_a_result_or_a_fault_and_ends_no_process(shared_data: Path) -> None:
    """Within 1 GiB and 5 s. What Pillow decodes is a result.

    The manifest calls 14 PNG files decoded though `load` raises for them: whoever wrote it had called `getexif` before,
    which loads a PNG, and a second `load` returns without looking. Pillow itself is asked about those."""
    folder = shared_data / "robustness"
    told = {line["file"]: line["pillow"] for line in map(json.loads, (folder / "manifest.jsonl").open())}
    with tarfile.open(folder / "files.tar") as archive, DecodePool(2, 2**30, 5) as pool:
        files = [(member.name, read(archive, member)) for member in archive if member.isfile()]
        found = list(pool.inspect(files))
        pids = pool.worker_pids()
        again = list(pool.inspect(files))
        assert pool.worker_pids() == pids
    assert [str(outcome) for _, outcome in again] == [str(outcome) for _, outcome in found]
    assert [name for name, _ in found] == [name for name, _ in files]
    assert len(found) == len(told) == 690
    reasons = {name: outcome.reason for name, outcome in found if isinstance(outcome, RowFault)}
    assert set(reasons.values()) == REASONS
    decoded = {name for name, outcome in found if isinstance(outcome, Inspected)}
    claimed = {name for name, pillow in told.items() if is_claimed(pillow)}
    assert decoded <= claimed
    data_of = dict(files)
    assert len(claimed - decoded) == 14
    for name in claimed - decoded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data_of[name])) as image, pytest.raises((OSError, SyntaxError)):
                image.load()


def is_claimed(pillow: dict[str, object]) -> bool:
    size = pillow.get("size")
    within = isinstance(size, list) and size[0] * size[1] <= MAX_PIXELS
    return pillow["outcome"] == "decoded" and pillow["format"] in FORMATS and within


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
