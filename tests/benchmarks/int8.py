"""Language models in int8 beside their originals: size and speed at GPT-2's size, answers of a really trained model.

`python tests/benchmarks/int8.py gpt2` has random weights; `python tests/benchmarks/int8.py easy_vqa` trains one of
0.26 M parameters on the folder of real data beside the checkout, or where FROSTLINE_SHARED_DATA says. On one thread.
"""

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

ROUNDS, NEW_TOKENS, PROMPT_TOKENS, MAX_TEST_EXAMPLES = 5, 12, 20, 1000


def gpt2(scratch: Path) -> None:
    import torch
    from tiny_language_model import save_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    from training.language_model import load_language_model
    from training.quantising.language_model import TENSORS, int8_tensors, load_int8, note_of, save_int8
    from training.quantising.layers import weight_bytes
    from training.regimes.config import PrefixRegime

    torch.set_num_threads(1)
    torch.manual_seed(0)
    save_tokenizer(scratch / "lm")
    GPT2LMHeadModel(GPT2Config()).save_pretrained(scratch / "lm")
    original = load_language_model(scratch / "lm", torch.float32)
    tensors, is_tied = int8_tensors(original.model)
    note = note_of(original).model_copy(update={"is_tied": is_tied})
    save_int8(tensors, note, scratch / "lm", scratch / "int8")
    small = load_int8(scratch / "int8", PrefixRegime())
    files = scratch / "lm" / "model.safetensors", scratch / "int8" / TENSORS
    row("bytes on disk", *(path.stat().st_size for path in files))
    models = {"original": original.model, "int8": small.model}
    row("bytes in memory", *(weight_bytes(model) for model in models.values()))
    for size in (1, 8):
        ids = torch.randint(0, 50_000, (size, PROMPT_TOKENS))
        taken: dict[str, list[float]] = defaultdict(list)
        for number in range(ROUNDS + 1):
            for name, model in models.items():
                started = time.perf_counter()
                generate(model, ids)
                if number:
                    taken[name].append((time.perf_counter() - started) / size)
        row(f"seconds per text, batch {size}", *(statistics.median(taken[name]) for name in models))


def generate(model: Any, ids_BL: Any) -> None:
    import torch

    with torch.inference_mode():
        found = model(input_ids=ids_BL, use_cache=True, logits_to_keep=1)
        for _ in range(NEW_TOKENS - 1):
            next_B1 = found.logits[:, -1:].argmax(-1)
            found = model(input_ids=next_B1, past_key_values=found.past_key_values, use_cache=True)


def easy_vqa(scratch: Path) -> None:
    from dataclasses import replace

    from real_training import EASY_VQA, Trained, answered, text_scores, trained, workspace_in, world_of
    from torch import distributed

    from infra.outputs import ensure_output
    from training.quantising.layers import weight_bytes
    from training.quantising.step import quantise, quantise_request
    from training.trained import load_trained

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=(scratch / "rendezvous").as_uri(), rank=0, world_size=1)
    data = Path(os.environ.get("FROSTLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = data / "easy_vqa"
    source = {"kind": "jsonl", "path": str(folder / "questions.jsonl"), "images": str(folder / "images.tar")}
    ingested = {"sources": [source], "split_fractions": {"val": 0.0, "test": 0.15}}
    workspace = workspace_in(scratch)
    world = world_of("easy_vqa", data / "weights", 128, workspace, ingested, pooling="mean")
    found = trained(world, EASY_VQA)
    request = quantise_request("easy_vqa-int8", found.output, world.features, "easy_vqa")
    made, _ = ensure_output(
        workspace.store,
        request,
        lambda attempt: quantise(found.output, world.features, world.language_model_dir, attempt, workspace),
        {},
    )
    small_world = replace(world, language_model_dir=workspace.cache.folder_of(made, "language_model"))
    model, language = load_trained(made, world.stored, small_world.language_model_dir, workspace.cache, "cpu")
    sides = {"original": (world, found), "int8": (small_world, Trained(model, language, made))}
    files = [
        sum(path.stat().st_size for path in side[0].language_model_dir.glob("*.safetensors")) for side in sides.values()
    ]
    row("bytes of the language model", *files)
    row("bytes in memory", *(weight_bytes(one.model) for _, one in sides.values()))
    test = world.examples("test")[:MAX_TEST_EXAMPLES]
    said, taken = {}, defaultdict(list)
    for _ in range(3):
        for name, (where, one) in sides.items():
            started = time.perf_counter()
            said[name] = answered(where, one, test, max_new_tokens=10)[0]
            taken[name].append(time.perf_counter() - started)
    row("vqa_accuracy", *(text_scores(test, said[name])["vqa_accuracy"] for name in sides))
    row(f"seconds for 2 x {len(test)} answers", *(statistics.median(taken[name]) for name in sides))
    alike = sum(said["original"][each].text == reply.text for each, reply in said["int8"].items())
    print(f"{alike} of {len(test)} answers are the same")
    distributed.destroy_process_group()


def row(label: str, original: float, small: float) -> None:
    print(f"{label:32} {original:14,.4g} {small:14,.4g} {small / original:6.2f} times", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        {"gpt2": gpt2, "easy_vqa": easy_vqa}[sys.argv[1]](Path(name))
