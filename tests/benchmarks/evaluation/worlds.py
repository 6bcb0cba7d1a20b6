"""What both sides answer with: a random language model of a stated size, a mapper from its seed, features of noise."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

from plan import Case

WORLD = "world.json"


def world_of(case: Case, root: Path) -> Path:
    """The folder of a case's model, features and questions. Made once."""
    from infra.digests import digest_json

    folder = root / f"case-{digest_json(vars(case))[:12]}"
    if not (folder / WORLD).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_world(case, folder)
    return folder


def _write_world(case: Case, folder: Path) -> None:
    import numpy as np
    from stored_parts import made_by, store_features

    from infra.digests import digest_bytes
    from infra.store import LocalStore

    store = LocalStore(folder / "store")
    image_ids = [digest_bytes(str(number).encode()) for number in range(case.num_texts)]
    shape = (case.num_texts, case.num_patches, case.vision_width)
    features_NPV = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
    facts = {"num_patches": case.num_patches, "vision_width": case.vision_width, "views": ["original"]}
    parts = store_features(store, image_ids, features_NPV)
    language_model = language_model_of(case, folder)
    asked = zip(image_ids, _prompts(case), strict=True)
    world = {
        "outputs": {
            "train": trained(case, language_model, store, folder).model_dump(mode="json"),
            "features": made_by("featurize", parts, {"encoder_key": "e" * 64}, facts).model_dump(mode="json"),
            "dataset": made_by("ingest", [], {}).model_dump(mode="json"),
        },
        "language_model": str(language_model),
        "store": store.uri,
        "cache": str(folder / "cache"),
        "batch_size": case.batch_size,
        "max_new_tokens": case.max_new_tokens,
        # As evaluation sorts them: by the length of the prompt.
        "asked": sorted(asked, key=lambda one: len(one[1])),
    }
    (folder / WORLD).write_text(json.dumps(world))


def _prompts(case: Case) -> list[str]:
    if not case.ragged:
        return ["caption:"] * case.num_texts
    draw = random.Random(0)
    words = [f"extra{number}" for number in range(case.num_extra_words)]
    return [f"question: {' '.join(draw.choices(words, k=draw.randint(1, 16)))} answer:" for _ in range(case.num_texts)]


def language_model_of(case: Case, folder: Path) -> Path:
    """A GPT-2 of the case's size with random weights, and a tokenizer of words."""
    import torch
    from tiny_language_model import save_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    target = folder / "language-model"
    num_tokens = save_tokenizer(target, case.num_extra_words)
    torch.manual_seed(0)
    config = GPT2Config(
        **case.language_model,
        vocab_size=num_tokens,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.1,  # with the usual 0.02 a random model says one word again and again
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.lm_head.weight[0] *= case.end_token_scale
    model.save_pretrained(target)
    return target


def trained(case: Case, language_model: Path, store: Any, folder: Path) -> Any:
    """The `train` output of a mapper from its seed."""
    import torch
    from safetensors.torch import save_file
    from stored_parts import made_by

    from infra.digests import canonical_json
    from infra.outputs import upload_part
    from training.config import TrainConfig
    from training.language_model import load_language_model
    from training.objectives.answer_space import AnswerSpace
    from training.prefix_model import build_prefix_model, trainable_state

    config = TrainConfig.model_validate(
        {
            "mapper": {"kind": "mlp", "prefix_tokens": case.prefix_tokens, "width": 512},
            "objectives": {"caption": {}, "vqa": {}},
            "global_batch_images": 4,
            "epochs": 1,
            "learning_rate": 1e-3,
        }
    )
    language = load_language_model(language_model, torch.float32)
    model = build_prefix_model(config, language, (case.num_patches, case.vision_width), AnswerSpace())
    state = {name: value * 8 for name, value in trainable_state(model).items()}  # a prefix that is heard
    save_file(state, folder / "trainables")
    (folder / "history").write_bytes(canonical_json({"loss": [[1, 1.0]]}))
    parts = [upload_part(store, "train", folder / kind, kind, 1) for kind in ("trainables", "history")]
    facts = {"config": config.model_dump(mode="json"), "answer_space": {}, "validation_curve": []}
    return made_by("train", parts, {"model_digest": "b" * 64}, facts)
