"""What an encoder holds in memory does not follow the size of its shard."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stored_parts import store_images
from tiny_towers import save_tower
from transformers import ViTImageProcessorPil

from data_prep.pins import pin
from data_prep.pretrained import PretrainedRef
from infra.part_cache import PartCache
from infra.store import Store

ENCODE = """
import json, sys
from data_prep.encoder import Encoder, Unit
from infra.outputs import Part

arguments, part = json.loads(sys.argv[1])
Encoder(**arguments, config={"views": 1}, batch_size=16, threads=1).run(Unit(Part.model_validate(part), None))
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak.split()[1])
"""


def large_picture(number: int) -> bytes:
    """About a megabyte, stored as it is."""
    pixels = np.random.default_rng(number).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


@pytest.mark.slow
def test_ten_times_the_images_in_a_shard_take_the_same_memory(store: Store, tmp_path: Path) -> None:
    """Shown to fail: 2.0 times the memory where `read_images` takes the part as one row group."""
    save_tower("vit", tmp_path / "tower")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tower")
    cache = PartCache(store, tmp_path / "cache")
    tower = pin(PretrainedRef(folder=tmp_path / "tower"), None, cache)
    arguments = {
        "store_uri": store.uri,
        "cache_dir": str(cache.folder),
        "tower": tower.model_dump(mode="json"),
    }

    def peak_kib(num_images: int) -> int:
        dataset = store_images(store, [[large_picture(number) for number in range(num_images)]])
        (part,) = dataset.parts_of("images")
        told = json.dumps([arguments, part.model_dump()])
        done = subprocess.run([sys.executable, "-c", ENCODE, told], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    small, large = peak_kib(32), peak_kib(320)
    assert large <= 1.15 * small, (small, large)
