"""What cannot be trained is refused before the first global step, with what was found, expected, and to be done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import folder_of
from stored_parts import store_features
from tiny_language_model import save_tokenizer
from watching import Watching

from infra.errors import ConfigError, DataError, Interrupted
from infra.store import open_store
from training.job import TrainJob
from training.loop import TrainLoop, run_rank

MakeJob = Callable[..., TrainJob]
pytestmark = pytest.mark.usefixtures("one_rank")


def refused(job: TrainJob, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not a single batch was looked at."""

    def never(self: TrainLoop, step: int) -> Any:
        raise AssertionError("training has started")

    monkeypatch.setattr(TrainLoop, "_batch", never)
    with pytest.raises(error, match=message):
        run_rank(job, Watching())
    assert not folder_of(job).steps()


def with_language_model(job: TrainJob, model: Any, folder: Path) -> TrainJob:
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return job.model_copy(update={"language_model_dir": folder})


def test_a_language_model_that_takes_no_vectors(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CpmAntConfig, CpmAntForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 64}
    model = CpmAntForCausalLM(CpmAntConfig(**sizes, num_hidden_layers=1))
    job = with_language_model(make_job(tmp_path), model, tmp_path / "lm")
    refused(job, ConfigError, "CpmAntForCausalLM does not take inputs_embeds; expected .* Name another", monkeypatch)


@pytest.mark.parametrize(("prefix_tokens", "regime"), [(126, {"kind": "prefix"}), (64, "prompt")])
def test_a_prefix_and_a_text_longer_than_the_positions_of_the_language_model(
    prefix_tokens: int, regime: Any, tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soft prompt takes positions too."""
    mapper = {"kind": "mlp", "prefix_tokens": prefix_tokens, "width": 8}
    if regime == "prompt":
        regime = {"kind": "prompt", "num_tokens": 62, "learning_rate": 1e-2}
    job = make_job(tmp_path, {"mapper": mapper, "regime": regime})
    message = r"example 0{12}…? take 1\d\d positions; expected at most the language model's 128. Lower mapper.prefix"
    refused(job, ConfigError, message, monkeypatch)


@pytest.mark.parametrize("shape", [(4, 16), (8, 4)], ids=["wider", "as many numbers in another shape"])
def test_features_that_another_tower_made(
    shape: tuple[int, int], tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest says 4 patches of width 8."""
    job = make_job(tmp_path)
    image_ids = [f"{number:064x}" for number in range(24)]
    parts = store_features(open_store(job.store_uri), image_ids, np.zeros((24, *shape), dtype=np.float16))
    draft = job.features.draft.model_copy(update={"parts": parts})
    job = job.model_copy(update={"features": job.features.model_copy(update={"draft": draft})})
    found = f"holds {shape[0]} patches of width {shape[1]} an image; expected 4 of width 8, .* --force featurize"
    refused(job, DataError, found, monkeypatch)


def test_features_of_another_tower_than_the_checkpoint_was_trained_with(tmp_path: Path, make_job: MakeJob) -> None:
    job = make_job(tmp_path)
    with pytest.raises(Interrupted):
        run_rank(job, Watching(4))
    draft = job.features.draft.model_copy(update={"identity": {"encoder_key": "a" * 64}})
    other = job.model_copy(update={"features": job.features.model_copy(update={"draft": draft})})
    with pytest.raises(ConfigError, match=r"checkpoint of step 4 .* encoder_key eeeeeeeeeeee…; expected aaaaaaaaaaaa…"):
        run_rank(other, Watching())


def test_a_mapper_of_single_patches_that_are_not_as_many_as_the_tower_gives(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, {"mapper": {"kind": "linear", "prefix_tokens": 5, "pooling": "patches"}})
    refused(job, ConfigError, "prefix_tokens", monkeypatch)


def test_a_target_without_tokens(
    tmp_path: Path, make_job: MakeJob, make_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, rows=[{**row, "targets": [" "]} if row["task"] == "vqa" else row for row in make_rows(24)])
    refused(
        job, DataError, r"example 0+\d+… \(tiny\): the target ' ' has no tokens; expected at least one", monkeypatch
    )


def test_a_regime_that_finds_nothing_to_train(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama-like models have no biases."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, max_position_embeddings=128))
    regime = {"kind": "bitfit", "learning_rate": 1e-3}
    job = with_language_model(make_job(tmp_path, {"regime": regime}), model, tmp_path / "lm")
    refused(job, ConfigError, "regime bitfit finds no biases in LlamaForCausalLM; .*norms", monkeypatch)
