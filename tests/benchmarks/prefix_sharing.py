"""`make bench`: what prefix sharing is worth, side by side in one run, interleaved, medians. Prints a table.

Both sides train the same mapper before the same frozen language model on the same images, captions and global batch;
one puts all captions of an image behind one copy of its prefix, the other gives each caption a sequence of its own.
"""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from training.base.text import tokenizer_text
from training.base.tokenizer import train_tokenizer
from training.config import TrainConfig
from training.language_model import frozen_language_model
from training.packing import Branch, PackedImage, pack
from training.prefix_model import build_prefix_model

ROUNDS = 7
NUM_PATCHES, VISION_WIDTH = 49, 64
CASES = ({"prefix_tokens": 10, "captions": 5}, {"prefix_tokens": 64, "captions": 5})
LM = {"n_embd": 256, "n_layer": 4, "n_head": 4}


def images_of(num_images: int, captions: int, vocabulary: int) -> list[PackedImage]:
    """Images with captions of 8 to 14 tokens."""
    random = np.random.default_rng(0)

    def branch(image: int) -> Branch:
        ids = tuple(int(token) for token in random.integers(2, vocabulary, int(random.integers(8, 15))))
        return Branch(f"example-{image}", 0, (5, 6), ids, 1.0)

    return [PackedImage(f"image-{n}", tuple(branch(n) for _ in range(captions))) for n in range(num_images)]


def seconds_of_step(model: Any, batch: Any) -> float:
    """Forward and backward of one micro batch."""
    started = time.perf_counter()
    model(batch).weighted_sum.backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def measure(case: dict[str, int]) -> dict[str, Any]:
    tokenizer = train_tokenizer(tokenizer_text(0, 200), 400)
    eos = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=400, n_positions=1024, bos_token_id=eos, eos_token_id=eos, **LM)
    language_model = frozen_language_model(GPT2LMHeadModel(config), tokenizer, Path("bench"))
    mapper = {"kind": "mlp", "prefix_tokens": case["prefix_tokens"], "width": 256}
    train = TrainConfig.model_validate(
        {"mapper": mapper, "global_batch_images": 16, "epochs": 1, "learning_rate": 1e-3}
    )
    model = build_prefix_model(train, language_model, NUM_PATCHES, VISION_WIDTH)
    images = images_of(16, case["captions"], 400)
    apart = [replace(image, branches=(branch,)) for image in images for branch in image.branches]
    patches_BPV = np.random.default_rng(1).standard_normal((16, NUM_PATCHES, VISION_WIDTH)).astype(np.float16)
    sides = {
        "shared": pack(images, patches_BPV),
        "apart": pack(apart, patches_BPV.repeat(case["captions"], axis=0)),
    }
    losses = {name: float(model(batch).weighted_sum.detach()) for name, batch in sides.items()}
    assert abs(losses["shared"] - losses["apart"]) < 1e-4 * abs(losses["apart"]), losses
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, batch in sides.items():
            runs[name].append(seconds_of_step(model, batch))
    medians = {name: statistics.median(found) for name, found in runs.items()}
    label = f"prefix sharing, K={case['prefix_tokens']}, {case['captions']} captions"
    return {
        "name": label, "value": round(medians["apart"] / medians["shared"], 2), "unit": "ratio of seconds per step",
        "higher_is_better": True, "sides": {name: {"median": medians[name], "runs": runs[name]} for name in sides},
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(2)
    found = [measure(case) for case in CASES]
    table = Table("measured", "shared", "one sequence each", "ratio", box=None)
    for row in found:
        shared, apart = (f"{row['sides'][name]['median'] * 1e3:.0f} ms" for name in ("shared", "apart"))
        table.add_row(row["name"], shared, apart, f"{row['value']:.2f}×")
    Console().print(table)
    path = Path("var/bench/training.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
