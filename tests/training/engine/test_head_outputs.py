"""Labels and numbers of images, read from a model in memory. Shapes: B images, P patches, V vision width, C labels."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_model_families import families
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import ConfigError
from training import head_outputs
from training.blind import blinded
from training.config import TrainConfig
from training.head_outputs import HeadReader
from training.language_model import LanguageModel
from training.objectives.answer_space import AnswerSpace
from training.prefix_model import build_prefix_model

SPACE = AnswerSpace(labels=("cat", "dog", "zebra"), number_means=(10.0, -1.0), number_deviations=(2.0, 0.5))
LABELS = ["a", "striped horse", "dog", "an even longer label"]
ASKED = ["", "what is it", "x", "which animal stands there", "", "y", "who"]
LEAD, EOS = 1, 2
PATCHES_BPV = np.random.default_rng(0).normal(size=(len(ASKED), 5, 8)).astype(np.float16)
HEADS = {"classify": {"by": "head", "prompt": "label {prompt}:"}, "regress": {"prompt": "numbers {prompt}"}}
TEXT = {"caption": {}, "classify": {"by": "text", "prompt": "label {prompt}:"}}


class Letters:
    """A token per letter."""

    def __call__(self, texts: Sequence[str], **_: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) % 90 + 3 for letter in text] for text in texts]}


def reader_of(objectives: dict[str, Any], **fields: Any) -> HeadReader:
    torch.manual_seed(0)
    language = LanguageModel(families()["llama"]().eval(), Letters(), Path("memory"), (LEAD,), EOS, 128)
    settings = {
        "mapper": {"kind": "mlp", "prefix_tokens": 3, "width": 16},
        "global_batch_images": 4,
        "epochs": 1,
        "learning_rate": 1e-3,
        "objectives": objectives,
        **fields,
    }
    model = build_prefix_model(TrainConfig.model_validate(settings), language, (5, 8), SPACE)
    model.mapper.output_scale = 1.0  # a prefix that is heard
    for parameter in model.heads.parameters():  # heads start at zero
        nn.init.normal_(parameter)
    return HeadReader(model.eval(), language, SPACE)


def hidden_states(reader: HeadReader, image: int, prompt: str, *target: int) -> Tensor:
    """Of one sequence [lead, prefix, prompt, target] by the language model alone."""
    model = reader.model
    ids = [*reader.language.encode([prompt])[0], *target]
    embedded = model.lm.get_input_embeddings()(torch.tensor([ids]))
    shared = model.shared_inputs(torch.from_numpy(PATCHES_BPV[image : image + 1]))
    return model.lm.base_model(inputs_embeds=torch.cat([shared, embedded], dim=1)).last_hidden_state[0]


def test_heads_answer_for_each_image_from_the_end_of_its_own_prompt() -> None:
    reader = reader_of(HEADS)
    scores, numbers = reader.label_scores(PATCHES_BPV, ASKED), reader.numbers(PATCHES_BPV, ASKED)
    for image, asked in enumerate(ASKED):
        at_label = reader.model.heads["classify"].output(hidden_states(reader, image, f"label {asked}:")[-1])
        torch.testing.assert_close(scores[image], at_label.log_softmax(dim=0), atol=1e-4, rtol=1e-4)
        scaled = reader.model.heads["regress"].output(hidden_states(reader, image, f"numbers {asked}")[-1])
        expected = torch.tensor([10.0, -1.0]) + torch.tensor([2.0, 0.5]) * scaled
        torch.testing.assert_close(numbers[image], expected, atol=1e-4, rtol=1e-4)
    assert reader.labels(PATCHES_BPV, ASKED) == [SPACE.labels[int(row.argmax())] for row in scores]
    assert scores.std(dim=0).max() > 0.1, "images that answer alike would show nothing"


@pytest.mark.parametrize("shares_prefix", [True, False])
def test_a_labels_score_is_the_likelihood_of_its_text_and_of_its_end(shares_prefix: bool) -> None:
    reader = reader_of(TEXT)
    reader.language.__dict__["shares_prefix"] = reader.model.shares_prefix = shares_prefix
    scores_BC = reader.label_text_scores(PATCHES_BPV, ASKED, LABELS)
    assert scores_BC.shape == (len(ASKED), len(LABELS))
    for image, asked in enumerate(ASKED):
        for number, label in enumerate(LABELS):
            ids = [*reader.language.encode_targets([label])[0], EOS]
            hidden = hidden_states(reader, image, f"label {asked}:", *ids[:-1])[-len(ids) :]
            logits = reader.model.lm.get_output_embeddings()(hidden)
            expected = -functional.cross_entropy(logits, torch.tensor(ids), reduction="sum")
            assert scores_BC[image, number].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_targets_likelihood_is_that_behind_its_image_and_its_whole_prompt() -> None:
    reader = reader_of({"caption": {}, "vqa": {}})
    targets = ["a", "striped horse", "dog", "", "an even longer target", "x", "y"]
    found = reader.log_likelihoods(PATCHES_BPV, ASKED, targets)
    for image, (prompt, target) in enumerate(zip(ASKED, targets, strict=True)):
        ids = [*reader.language.encode_targets([target])[0], EOS]
        hidden = hidden_states(reader, image, prompt, *ids[:-1])[-len(ids) :]
        logits = reader.model.lm.get_output_embeddings()(hidden)
        expected = -functional.cross_entropy(logits, torch.tensor(ids), reduction="sum")
        assert found[image] == (pytest.approx(expected.item(), rel=1e-4), len(ids))


def test_a_texts_vector_does_not_see_the_image_and_an_images_not_the_text() -> None:
    reader = reader_of({"caption": {}, "contrast": {"width": 6}})
    image_BE, text_BE = reader.vectors(PATCHES_BPV, ASKED)
    torch.testing.assert_close(image_BE.norm(dim=1), torch.ones(len(ASKED)))
    shown_BE, said_BE = reader.vectors(PATCHES_BPV[::-1].copy(), ASKED)
    torch.testing.assert_close(shown_BE, image_BE.flip(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said_BE, text_BE, atol=1e-5, rtol=1e-5)
    assert (text_BE[1] - text_BE[3]).abs().max() > 0.01 and (image_BE[1] - image_BE[3]).abs().max() > 0.01


def test_a_blind_model_answers_every_image_as_the_mean_of_their_prefixes() -> None:
    reader = reader_of(TEXT)
    patches_BPV = torch.from_numpy(PATCHES_BPV)
    blind = HeadReader(blinded(reader.model, patches_BPV.split(3)), reader.language, SPACE)
    mean_KD = reader.model.mapper(patches_BPV.float()).mean(dim=0)
    torch.testing.assert_close(blind.model.mapper(patches_BPV)[4], mean_KD, atol=1e-5, rtol=1e-5)
    scores_BC = blind.label_text_scores(PATCHES_BPV, ["x"] * len(ASKED), LABELS)
    torch.testing.assert_close(scores_BC, scores_BC[:1].expand_as(scores_BC), atol=1e-5, rtol=1e-5)
    seeing_BC = reader.label_text_scores(PATCHES_BPV, ["x"] * len(ASKED), LABELS)
    assert seeing_BC.std(dim=0).max() > 1e-3, "the model itself still looks"


@pytest.mark.parametrize(
    ("objectives", "ask"),
    [
        (HEADS, HeadReader.label_scores),
        (HEADS, HeadReader.numbers),
        (TEXT, lambda reader, *asked: reader.label_text_scores(*asked, LABELS)),
    ],
    ids=["labels", "numbers", "label texts"],
)
def test_what_an_image_gets_does_not_depend_on_the_others(
    objectives: dict[str, Any], ask: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(objectives)
    whole = ask(reader, PATCHES_BPV, ASKED)
    alone = [ask(reader, PATCHES_BPV[image : image + 1], [asked]) for image, asked in enumerate(ASKED)]
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-5, rtol=1e-5)
    backwards = ask(reader, PATCHES_BPV[::-1].copy(), ASKED[::-1])
    torch.testing.assert_close(whole, backwards.flip(0), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(head_outputs, "POSITIONS_PER_BATCH", 250)
    torch.testing.assert_close(whole, ask(reader, PATCHES_BPV, ASKED), atol=1e-5, rtol=1e-5)


def test_what_was_not_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="regress by a head was asked; this model was trained for caption, classify"):
        reader_of(TEXT).numbers(PATCHES_BPV, ASKED)
    with pytest.raises(ConfigError, match=r"classify by text was asked; .* classify by a head, regress by a head"):
        reader_of(HEADS).label_text_scores(PATCHES_BPV, ASKED, LABELS)
    with pytest.raises(ValueError, match="found 2 prompts for 7 images"):
        reader_of(HEADS).numbers(PATCHES_BPV, ASKED[:2])


def test_a_label_without_positions_is_refused() -> None:
    reader = reader_of(TEXT)
    short = HeadReader(reader.model, replace(reader.language, max_positions=20), SPACE)
    with pytest.raises(ConfigError, match="expected at most the language model's 20"):
        short.label_text_scores(PATCHES_BPV, ASKED, LABELS)
