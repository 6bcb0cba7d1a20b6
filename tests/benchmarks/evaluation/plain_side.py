"""The other side: `generate` of transformers, batch by batch, with features in memory."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sides import Timed, serve
from worlds import WORLD

from data_prep.features import FeatureStore
from infra.digests import digest_json
from infra.outputs import Manifest
from infra.part_cache import PartCache
from infra.store import open_store
from training.trained import load_trained

THREADS = 2


def answer(folder: str) -> dict[str, Any]:
    model, language, patches_NPV, world = loaded(folder)
    tokenizer, lm = language.tokenizer, language.model
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    texts: list[str] = []
    with Timed() as timed, torch.inference_mode():
        for start in range(0, len(world["asked"]), world["batch_size"]):
            some = slice(start, start + world["batch_size"])
            told = tokenizer([prompt for _, prompt in world["asked"][some]], padding=True, return_tensors="pt")
            shared_BSD = model.shared_inputs(patches_NPV[some].float())
            inputs_BTD = torch.cat([shared_BSD, lm.get_input_embeddings()(told["input_ids"])], dim=1)
            mask_BT = torch.cat([torch.ones(shared_BSD.shape[:2], dtype=torch.long), told["attention_mask"]], dim=1)
            found = lm.generate(
                inputs_embeds=inputs_BTD,
                attention_mask=mask_BT,
                max_new_tokens=world["max_new_tokens"],
                do_sample=False,
                eos_token_id=language.eos_id,
                pad_token_id=language.eos_id,
            )
            texts += [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]
    return {
        "captions": len(texts),
        "seconds": timed.seconds,
        "cpu_seconds": timed.cpu_seconds,
        "texts": digest_json(texts),
    }


@cache
def loaded(folder: str) -> tuple[Any, Any, torch.Tensor, dict[str, Any]]:
    """(model, language model, features by what is asked, world)"""
    torch.set_num_threads(THREADS)
    world = json.loads((Path(folder) / WORLD).read_text())
    parts = PartCache(open_store(world["store"]), Path(world["cache"]))
    features = FeatureStore(Manifest.model_validate(world["outputs"]["features"]), parts)
    train = Manifest.model_validate(world["outputs"]["train"])
    model, language = load_trained(train, features, Path(world["language_model"]), parts, "cpu")
    patches_NPV = torch.from_numpy(features.gather([image_id for image_id, _ in world["asked"]]))
    return model, language, patches_NPV, world


if __name__ == "__main__":
    serve({"answer": answer}, ("torch", "transformers", "numpy"))
