"""The least that must be done to get features: decode, processor, encoder, in as many processes as cores. No store.

Each process has loaded its tower before the clock starts and has not yet run it; the clock stops when the last of them
holds its features in memory.
"""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from sides import serve


def encode(tower: str, paths: list[str], images_per_batch: int, ready: Any, done: Any) -> None:
    """One process: load, wait for the others, encode."""
    import io

    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    torch.set_num_threads(1)
    processor = AutoImageProcessor.from_pretrained(tower, backend="pil")
    model = AutoModel.from_pretrained(tower, dtype=torch.float32).eval()
    features: list[np.ndarray] = []
    ready.wait()
    cpu_seconds = time.process_time()
    with torch.inference_mode():
        for start in range(0, len(paths), images_per_batch):
            files = [Path(path).read_bytes() for path in paths[start : start + images_per_batch]]
            images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
            pixels_BCHW = processor(images=images, return_tensors="pt")["pixel_values"]
            hidden = model(pixel_values=pixels_BCHW).last_hidden_state
            hidden = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
            features.append(hidden.to(torch.float16).numpy())
    num_images = sum(len(found) for found in features)
    done.put((time.perf_counter(), time.process_time() - cpu_seconds, num_images))


def featurize(folder: str, tower: str, images_per_batch: int, num_cores: int) -> dict[str, Any]:
    """Seconds from the moment all processes are ready until all features are there."""
    paths = sorted(str(path) for path in (Path(folder) / "images").iterdir())
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(num_cores + 1), context.Queue()
    shares = [paths[number::num_cores] for number in range(num_cores)]
    processes = [context.Process(target=encode, args=(tower, share, images_per_batch, ready, done)) for share in shares]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    told = [done.get() for _ in processes]
    for process in processes:
        process.join()
    return {
        "seconds": max(ended for ended, _, _ in told) - started,
        "cpu_seconds": sum(cpu_seconds for _, cpu_seconds, _ in told),
        "images": sum(num_images for _, _, num_images in told),
    }


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    serve({"featurize": featurize}, ("torch", "transformers", "pillow", "numpy"))
