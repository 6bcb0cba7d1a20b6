"""Answers to easy_vqa's questions by each regime, with the same mapper, steps and data.

`python tests/benchmarks/regimes.py` prints a table and writes var/bench/regimes.json (about half an hour on 2 cores).
It needs the folder of real data beside the checkout, or where FROSTLINE_SHARED_DATA says.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

from real_training import World, answered, text_scores, trained, workspace_in, world_of  # noqa: E402

COMMON = {
    "mapper": {"kind": "mlp", "prefix_tokens": 4, "width": 128},
    "objectives": {"vqa": {"prompt": "{prompt}"}},
    "global_batch_images": 24,
    "learning_rate": 3e-3,
    "validation_images": 0,
    "checkpoint_every_steps": 10_000,
}
REGIMES: dict[str, dict[str, Any]] = {
    "prefix": {"kind": "prefix"},
    "prompt": {"kind": "prompt", "num_tokens": 8, "learning_rate": 1e-2},
    "bitfit (norms)": {"kind": "bitfit", "norms": True, "learning_rate": 1e-2},
    "adapter": {"kind": "adapter", "width": 64, "learning_rate": 4e-3},
    "lora": {"kind": "lora", "rank": 16, "alpha": 32, "target_modules": "all-linear", "learning_rate": 4e-3},
    "full": {"kind": "full", "learning_rate": 2e-3},
}
MAX_TEST_EXAMPLES = 1000


def measured(world: World, regime: dict[str, Any], epochs: int) -> dict[str, Any]:
    found = trained(world, {**COMMON, "regime": regime, "epochs": epochs})
    test = world.examples("test")[:MAX_TEST_EXAMPLES]
    predictions, controls = answered(world, found, test, max_new_tokens=10)
    facts = found.output.facts
    return {
        "accuracy": text_scores(test, predictions)["vqa_accuracy"],
        "another_picture": text_scores(test, controls)["vqa_accuracy"],
        "trained_parameters": facts["num_trained_parameters"],
        "last_loss": facts["final"]["loss"],
        "global_steps": found.output.counts["global_steps"],
        "seconds": facts["seconds"],
    }


def main(epochs: int) -> None:
    from torch import distributed

    data = Path(os.environ.get("FROSTLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = data / "easy_vqa"
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    with tempfile.TemporaryDirectory() as scratch:
        rendezvous = Path(scratch) / "rendezvous"
        distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=0, world_size=1)
        source = {"kind": "jsonl", "path": str(folder / "questions.jsonl"), "images": str(folder / "images.tar")}
        ingested = {"sources": [source], "split_fractions": {"val": 0.0, "test": 0.15}}
        workspace = workspace_in(Path(scratch))
        world = world_of("easy_vqa", data / "weights", 128, workspace, ingested, pooling="mean")
        results = {}
        print(f"{'regime':16} {'accuracy':>9} {'swapped':>9} {'trained':>9} {'loss':>7} {'seconds':>8}")
        for name, regime in REGIMES.items():
            results[name] = found = measured(world, regime, epochs)
            print(
                f"{name:16} {found['accuracy']:9.3f} {found['another_picture']:9.3f} "
                f"{found['trained_parameters']:9d} {found['last_loss']:7.3f} {found['seconds']:8.0f}",
                flush=True,
            )
        distributed.destroy_process_group()
    out = REPOSITORY / "var" / "bench" / "regimes.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"epochs": epochs, "common": COMMON, "regimes": REGIMES, "results": results}, indent=1))
    print(f"wrote {out}")


if __name__ == "__main__":
    main(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 4)
