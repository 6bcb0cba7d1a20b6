"""The base models: loops that resume to the bit, and folders that transformers can load."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from data_prep.sources.digit_scenes import DigitScenes, DigitScenesConfig
from data_prep.sources.scene_text import Scene
from training.base.config import LanguageModelConfig, ScheduleConfig, TowerConfig
from training.base.language_model import LanguageModelProblem
from training.base.loop import SupervisedProblem, run_supervised
from training.base.text import scene_text, tokenizer_text, vqa_prompt
from training.base.tokenizer import train_tokenizer
from training.base.tower import TowerProblem

SCHEDULE = ScheduleConfig(num_steps=6, batch_scenes=4, learning_rate=2e-3, warmup_steps=2)


def language_model_problem() -> LanguageModelProblem:
    config = LanguageModelConfig(
        vocab_tokens=400,
        width=16,
        mlp_width=32,
        num_layers=1,
        num_heads=2,
        num_scenes=20,
        description_vectors=12,
        folded_share=0.5,
        noise=0.2,
        schedule=SCHEDULE,
    )
    return LanguageModelProblem(config, 0, train_tokenizer(tokenizer_text(0, 300), 400))


def tower_problem() -> TowerProblem:
    config = TowerConfig(
        image_size_px=48,
        stem_width=8,
        stage_widths=(8, 8, 8),
        stage_layers=(1, 1, 1),
        shift_px=2,
        schedule=SCHEDULE,
    )
    source = DigitScenes(DigitScenesConfig(kind="digit_scenes", num_images=20))
    (file,) = source.files()
    rows = [row for row in source.rows(file) if row.task == "caption" and row.split == "train"]
    images = [np.asarray(Image.open(io.BytesIO(row.image.read()))) for row in rows]
    return TowerProblem(config, 0, images, [Scene.from_json(r.attributes["scene"]) for r in rows])


PROBLEMS = pytest.mark.parametrize("make", [language_model_problem, tower_problem])


def trained(
    problem: SupervisedProblem, resume: dict[str, Tensor] | None = None, start: int = 0
) -> tuple[torch.nn.Module, dict[int, dict[str, Tensor]], list[float]]:
    saved: dict[int, dict[str, Tensor]] = {}
    losses: list[float] = []
    module = run_supervised(
        problem,
        resume_state=resume,
        start_step=start,
        save_every_steps=2,
        save=saved.__setitem__,
        report=lambda _, loss: losses.append(loss),
    )
    return module, saved, losses


@PROBLEMS
def test_a_resumed_training_equals_an_undisturbed_one(
    make: Callable[[], SupervisedProblem],
) -> None:
    whole, saved, losses = trained(make())
    resumed, _, later = trained(make(), resume=saved[4], start=4)
    assert later == losses[4:]
    for (name, one), (_, other) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


@PROBLEMS
def test_a_state_survives_safetensors(make: Callable[[], SupervisedProblem], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _, saved, _ = trained(make())
    save_file(saved[2], tmp_path / "state.safetensors")
    loaded = load_file(tmp_path / "state.safetensors")
    assert loaded.keys() == saved[2].keys()
    assert all(torch.equal(loaded[name], saved[2][name]) for name in loaded)


def test_the_language_model_folder_loads_and_speaks(tmp_path: Path) -> None:
    problem = language_model_problem()
    module, _, _ = trained(problem)
    problem.export(module, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = vqa_prompt("is there a 5?") + " yes"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert torch.equal(model(ids).logits, module(ids).logits)


def test_the_tower_folder_loads_and_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    problem = tower_problem()
    module, _, _ = trained(problem)
    problem.export(module, tmp_path)
    tower = AutoModel.from_pretrained(tmp_path, use_safetensors=True).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels_HW3 = problem.pixels_N3HW[0].permute(1, 2, 0).numpy()
    prepared = processor(images=[pixels_HW3], return_tensors="pt")["pixel_values"]
    assert torch.allclose(prepared, problem.pixels_N3HW[:1].float() / 127.5 - 1, atol=1e-6)
    assert tower(prepared).last_hidden_state.shape == (1, 8, 3, 3)


def test_a_word_is_one_token_and_the_corpus_is_seeded() -> None:
    tokenizer = train_tokenizer(tokenizer_text(0, 300), 400)
    for phrase in scene_text(0, 0).description:
        assert len(tokenizer(phrase)["input_ids"]) == len(phrase.split())
    assert scene_text(0, 7) == scene_text(0, 7) != scene_text(1, 7)
