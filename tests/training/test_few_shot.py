"""Shots stand before a question as they were trained, are really read, and do not depend on who shares a batch.

Shapes: B questions, P patches, V vision width, K prefix, D LM width, W vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_model_families import EOS, MAX_POSITIONS, families, spread
from torch import Tensor

from training.asking import Asked, Reply
from training.config import TrainConfig
from training.few_shot import EncodedShots, ShownBefore, shown_before
from training.generation import Beam, GenerationConfig, Greedy, Sampling, Strategy
from training.head_outputs import HeadReader
from training.language_model import LanguageModel
from training.objectives.answer_space import AnswerSpace
from training.prefix_model import PrefixModel, build_prefix_model
from training.replying import replies_to
from training.shots import Shot, Shots

pytestmark = pytest.mark.usefixtures("one_thread")

LEAD, PREFIX, NUM_QUESTIONS, NUM_SHOTS, MAX_TARGET_TOKENS = (1,), 3, 24, 2, 8
SETTINGS = {
    "mapper": {"kind": "mlp", "prefix_tokens": PREFIX, "width": 16},
    "objectives": {"caption": {"prompt": "x:"}},
    "global_batch_images": 4,
    "epochs": 1,
    "learning_rate": 1e-3,
    "max_target_tokens": MAX_TARGET_TOKENS,
}
WORDS = "a striped horse stands there"
Read = tuple[PrefixModel, LanguageModel]


class Letters:
    """A token per letter, none put before a text; and texts that show the token ids."""

    def __call__(self, texts: Sequence[str], **_: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) % 40 + 3 for letter in text] for text in texts]}

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: bool) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


@pytest.fixture(params=["gpt2", "llama", "qwen3"])
def read(request: pytest.FixtureRequest) -> Read:
    torch.manual_seed(0)
    language_model = families(48)[request.param]()
    spread(language_model)
    language = LanguageModel(language_model.eval(), Letters(), Path("memory"), LEAD, EOS, MAX_POSITIONS)
    model = build_prefix_model(TrainConfig.model_validate(SETTINGS), language, (4, 8), AnswerSpace()).eval()
    model.mapper.output_scale = 2.0  # a prefix that is heard
    return model, language


def questions(kind: Any = "text") -> tuple[list[Asked], list[Shots]]:
    """Prompts, targets and shots of all lengths; some targets are longer than training allows."""
    asked, shots = [], []
    for number in range(NUM_QUESTIONS):
        target = WORDS[: 1 + number * 5 % 13] if kind == "likelihood" else ""
        asked.append(Asked(f"{number}", WORDS[: number * 7 % 17], kind, target))
        lengths = [(number * 3 + place * 5) % 14 for place in range(NUM_SHOTS)]
        shots.append(tuple(Shot(f"{number}-{size}", WORDS[:size], WORDS[size : size * 2 + 1]) for size in lengths))
    return asked, shots


def patches_of(num_images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_images, 4, 8)).astype(np.float16)


OWN, OF_SHOTS = patches_of(NUM_QUESTIONS, 0), patches_of(NUM_QUESTIONS * NUM_SHOTS, 1)


def shown_in(read: Read, rows: slice, shots: Sequence[Shots], patches: np.ndarray = OF_SHOTS) -> ShownBefore:
    some = patches.reshape(NUM_QUESTIONS, NUM_SHOTS, 4, 8)[rows]
    return shown_before(*read, [EncodedShots(*each) for each in zip(shots[rows], some, strict=True)])


def replies(
    read: Read, kind: str = "text", strategy: Strategy | None = None, size: int = NUM_QUESTIONS, max_new_tokens: int = 8
) -> list[Reply]:
    reader = HeadReader(*read, AnswerSpace())
    asked, shots = questions(kind)
    generation = GenerationConfig(max_new_tokens=max_new_tokens, strategy=strategy or Greedy())
    found: list[Reply] = []
    for start in range(0, NUM_QUESTIONS, size):
        rows = slice(start, start + size)
        found += replies_to(reader, OWN[rows], asked[rows], generation, shown_in(read, rows, shots))
    return found


def by_hand(read: Read, number: int, asked: Asked, shots: Shots) -> Tensor:
    """[1, T, D] of one question alone: [lead][prefix][prompt, target, end] for each shot, [prefix][prompt]."""
    model, language = read
    embed = language.model.get_input_embeddings()

    def embedded(ids: Sequence[int]) -> Tensor:
        found: Tensor = embed(torch.tensor([ids], dtype=torch.long))
        return found

    def prefix(patches_PV: np.ndarray) -> Tensor:
        found: Tensor = model.mapper(torch.from_numpy(patches_PV[None]).float())
        return found

    parts = [embedded(LEAD)]
    for shot, patches_PV in zip(shots, OF_SHOTS[number * NUM_SHOTS :], strict=False):
        (prompt,), (target,) = language.encode([shot.prompt]), language.encode([shot.target])
        parts += [prefix(patches_PV), embedded((*prompt, *(*target, EOS)[:MAX_TARGET_TOKENS]))]
    return torch.cat([*parts, prefix(OWN[number]), embedded(language.encode([asked.prompt])[0])], dim=1)


@torch.inference_mode()
def test_a_targets_likelihood_is_that_of_one_sequence_put_together_by_hand(read: Read) -> None:
    asked, shots = questions("likelihood")
    language = read[1]
    found = replies(read, "likelihood")
    for number, reply in enumerate(found):
        (whole,) = language.encode([asked[number].target])
        target = [*whole, EOS][:MAX_TARGET_TOKENS]
        told = language.model.get_input_embeddings()(torch.tensor([target]))
        inputs = torch.cat([by_hand(read, number, asked[number], shots[number]), told], dim=1)
        logits_TW = language.model(inputs_embeds=inputs).logits[0, -len(target) - 1 : -1]
        expected = float(logits_TW.log_softmax(dim=-1)[range(len(target)), target].sum())
        assert (reply.log_likelihood, reply.num_tokens) == (pytest.approx(expected, abs=1e-4), len(target))


@torch.inference_mode()
def test_a_text_is_that_of_one_sequence_put_together_by_hand(read: Read) -> None:
    asked, shots = questions()
    language = read[1]
    expected = []
    for number in range(NUM_QUESTIONS):
        inputs, new = by_hand(read, number, asked[number], shots[number]), []
        while len(new) < 8 and (token := int(language.model(inputs_embeds=inputs).logits[0, -1].argmax())) != EOS:
            new.append(token)
            inputs = torch.cat([inputs, language.model.get_input_embeddings()(torch.tensor([[token]]))], dim=1)
        expected.append(" ".join(map(str, new)))
    assert [reply.text for reply in replies(read)] == expected
    assert len(set(expected)) > 12


@torch.inference_mode()
def test_every_part_of_a_shot_is_read(read: Read) -> None:
    """Its image, its prompt, its target, and which comes first."""
    asked, shots = questions("likelihood")
    reader, generation = HeadReader(*read, AnswerSpace()), GenerationConfig(max_new_tokens=1)

    def likelihoods(told: list[Shots] | None, patches: np.ndarray = OF_SHOTS) -> list[float]:
        shown = None if told is None else shown_in(read, slice(None), told, patches)
        return [reply.log_likelihood for reply in replies_to(reader, OWN, asked, generation, shown)]

    before = likelihoods(shots)
    changed = [
        likelihoods(None),
        likelihoods(shots, np.roll(OF_SHOTS, 1, axis=0)),
        likelihoods([tuple(shot._replace(prompt=f"{shot.prompt}?") for shot in each) for each in shots]),
        likelihoods([tuple(shot._replace(target=f"q{shot.target}") for shot in each) for each in shots]),
        likelihoods([each[::-1] for each in shots], OF_SHOTS.reshape(-1, NUM_SHOTS, 4, 8)[:, ::-1].reshape(-1, 4, 8)),
    ]
    for after in changed:
        assert min(abs(one - other) for one, other in zip(before, after, strict=True)) > 1e-4


@pytest.mark.parametrize(
    "strategy", [Greedy(), Beam(kind="beam", num_beams=3), Sampling(kind="sampling")], ids=lambda one: one.kind
)
def test_texts_behind_shots_of_all_lengths_do_not_depend_on_the_batch(read: Read, strategy: Strategy) -> None:
    whole = replies(read, strategy=strategy)
    assert len({reply.text for reply in whole}) > 12
    for size in (1, 3, 16):
        split = replies(read, strategy=strategy, size=size)
        assert [reply.text for reply in split] == [reply.text for reply in whole], size
        found, expected = ([reply.log_likelihood for reply in some] for some in (split, whole))
        assert found == pytest.approx(expected, rel=1e-5)


def test_likelihoods_behind_shots_of_all_lengths_do_not_depend_on_the_batch(read: Read) -> None:
    whole = replies(read, "likelihood")
    for size in (1, 3, 16):
        split = replies(read, "likelihood", size=size)
        for one, other in zip(split, whole, strict=True):
            assert one.num_tokens == other.num_tokens
            assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-5)
