"""Every regime through the real loop and engine: 32 examples learnt by heart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import final
from watching import Watching

from training.job import TrainJob
from training.loop import run_rank

pytestmark = pytest.mark.usefixtures("one_rank")

NUM_IMAGES = 40
REGIMES: dict[str, dict[str, Any]] = {
    "prefix": {"kind": "prefix"},
    "lora": {"kind": "lora", "rank": 8, "target_modules": "all-linear", "learning_rate": 1e-2},
    "prompt": {"kind": "prompt", "num_tokens": 4, "learning_rate": 2e-2},
    "bitfit": {"kind": "bitfit", "norms": True, "learning_rate": 1e-2},
    "adapter": {"kind": "adapter", "width": 16, "learning_rate": 1e-2},
    "full": {"kind": "full", "learning_rate": 5e-3},
}


@pytest.fixture(scope="module")
def wide_language_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and wide enough that the frozen output matrix can tell its words apart."""
    import torch
    from tiny_language_model import save_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("wide_language_model")
    torch.manual_seed(0)
    shape = {"n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    config = GPT2Config(vocab_size=save_tokenizer(folder), bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", REGIMES)
@pytest.mark.slow
def test_a_regime_learns_32_examples_by_heart(
    kind: str, tmp_path: Path, make_job: Callable[..., TrainJob], wide_language_model_dir: Path
) -> None:
    """Features are noise, so that each image has to be told from every other. `run_rank` itself compares the digest of
    the frozen parameters before and after."""
    features = np.random.default_rng(0).normal(size=(NUM_IMAGES, 4, 8)).astype(np.float16)
    config = {
        "mapper": {"kind": "transformer", "prefix_tokens": 6, "width": 64, "num_layers": 2, "num_heads": 4},
        "regime": REGIMES[kind],
        "objectives": {"vqa": {}},
        "global_batch_images": 40,
        "epochs": 120,
        "learning_rate": 5e-3,
        "checkpoint_every_steps": 1000,
        "validation_images": 0,
    }
    job = make_job(tmp_path, config, {"micro_batch_tokens": 4096, "zero_stage": 1}, NUM_IMAGES, features)
    job = job.model_copy(update={"language_model_dir": wide_language_model_dir})
    run_rank(job, Watching())
    checkpoint = final(job)
    facts = checkpoint.state["finished"]
    losses = [value for _, value in checkpoint.state["history"]["curves"]["loss"]]
    assert facts["num_train_examples"] >= 32
    assert losses[-1] < 0.02 * losses[0]
