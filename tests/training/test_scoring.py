"""Scores of a mix of questions and captions, computed by hand where a hand can."""

import math
import random
from collections.abc import Mapping, Sequence

import pytest

from data_prep.dataset import Example
from training import scoring
from training.asking import Reply
from training.objectives.answer_space import AnswerSpace
from training.report import ClassScores, Confusion
from training.scoring import MAX_SLICES_PER_ATTRIBUTE, OTHER, Scorer, Scores, headline, intervals, slices


def score(examples: Sequence[Example], said: Mapping[str, str]) -> tuple[dict[str, float], Scores]:
    return Scorer(examples, AnswerSpace()).score(replies(said))


def by_label(examples: Sequence[Example], said: Mapping[str, str]) -> tuple[list[ClassScores], Confusion | None]:
    return scoring.by_label(examples, replies(said), AnswerSpace())


def replies(said: Mapping[str, str]) -> dict[str, Reply]:
    return {name: Reply(text) for name, text in said.items()}


def vqa(name: str, *answers: str, image: str = "i0", source: str = "one", **attributes: str) -> Example:
    return Example(name, image, "vqa", "what is it", answers, "test", source, attributes=attributes)


def caption(name: str, *references: str, image: str = "i0", source: str = "one", **attributes: str) -> Example:
    return Example(name, image, "caption", "", references, "test", source, attributes=attributes)


MIX = [
    vqa("q1", "7"),
    vqa("q2", "red"),
    vqa("q3", *["yes"] * 2, *["no"] * 8),
    vqa("q4", "two"),
    caption("c1", "a red seven", "one red seven here"),
    caption("c2", "a blue three"),
    caption("c3", "the green one sits on the left"),
]
SAID = {
    "q1": "7",  # right: 1
    "q2": "blue",  # wrong: 0
    "q3": "Yes.",  # two of ten: leaving one of the two out gives 1/3, one of the others 2/3: (2 · 1 + 8 · 2) / 30
    "q4": "2",  # right by the normalisation: 1
    "c1": "A  red seven",  # exact up to case and white space
    "c2": "a blue seven",  # 2 of 3 words
    "c3": "",
}


def test_the_metrics_of_a_mix_are_those_computed_by_hand() -> None:
    metrics, per_example = score(MIX, SAID)
    assert {name: scores["vqa_accuracy"] for name, scores in per_example.items() if name[0] == "q"} == {
        "q1": 1.0,
        "q2": 0.0,
        "q3": pytest.approx(0.6),
        "q4": 1.0,
    }
    assert metrics["vqa_accuracy"] == pytest.approx((1 + 0 + 0.6 + 1) / 4)
    assert metrics["caption_exact_match"] == pytest.approx(1 / 3)
    # ROUGE-L of c2: precision = recall = 2/3, so F = 2/3 whatever beta.
    assert [per_example[name]["rouge_l"] for name in ("c1", "c2", "c3")] == pytest.approx([1.0, 2 / 3, 0.0])
    assert metrics["rouge_l"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    # BLEU-1 pools counts: 5 of 6 words, and 6 words said where the nearest references have 3 + 3 + 7.
    assert metrics["bleu_1"] == pytest.approx(5 / 6 * math.exp(1 - 13 / 6), rel=1e-6)
    cider = [per_example[name]["cider_d"] for name in ("c1", "c2", "c3")]
    assert cider[0] > cider[1] > cider[2] == 0
    assert metrics["cider_d"] == pytest.approx(sum(cider) / 3)
    assert set(metrics) == {
        "vqa_accuracy", "caption_exact_match", "rouge_l", "cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4",
    }  # fmt: skip


def test_questions_have_no_caption_scores_and_captions_no_accuracy() -> None:
    _, per_example = score(MIX, SAID)
    assert all((name[0] == "q") == (set(scores) == {"vqa_accuracy"}) for name, scores in per_example.items())
    assert "vqa_accuracy" not in per_example["c1"]
    assert set(score(MIX[:4], SAID)[0]) == {"vqa_accuracy"}
    assert "vqa_accuracy" not in score(MIX[4:], SAID)[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_order_of_the_examples_changes_nothing(seed: int) -> None:
    mixed = list(MIX)
    random.Random(seed).shuffle(mixed)
    metrics, per_example = score(mixed, SAID)
    expected_metrics, expected = score(MIX, SAID)
    assert per_example == expected
    assert metrics == pytest.approx(expected_metrics, rel=1e-12)
    assert slices(mixed, per_example, per_example) == slices(MIX, expected, expected)


WORLD = [
    example
    for number, (colour, digit) in enumerate([("red", "7"), ("blue", "3"), ("green", "1"), ("red", "2")])
    for example in (
        vqa(f"q{number}", digit, image=f"i{number}"),
        caption(f"c{number}", f"a {colour} digit, {digit}", image=f"i{number}"),
    )
]


def test_a_model_that_sees_its_image_scores_one_and_its_control_zero() -> None:
    """Answers that are perfect for the image shown. The control is shown the next image, and is scored by one rule
    against the references of the example's own."""
    truth = {(example.image_id, example.task): example.targets[0] for example in WORLD}
    after = {"i0": "i1", "i1": "i2", "i2": "i3", "i3": "i0"}
    own = {example.example_id: truth[example.image_id, example.task] for example in WORLD}
    other = {example.example_id: truth[after[example.image_id], example.task] for example in WORLD}
    metrics, _ = score(WORLD, own)
    control, _ = score(WORLD, other)
    for name in ("vqa_accuracy", "caption_exact_match"):
        assert (metrics[name], control[name]) == (1.0, 0.0)
    assert metrics["rouge_l"] == pytest.approx(1) and metrics["bleu_4"] == pytest.approx(1)
    assert metrics["cider_d"] > 3 * control["cider_d"]


def test_a_model_that_does_not_look_scores_like_its_control() -> None:
    blind = {example.example_id: "7" if example.task == "vqa" else "a red digit, 7" for example in WORLD}
    assert score(WORLD, blind) == score(WORLD, dict(blind))
    assert score(WORLD, blind)[0]["vqa_accuracy"] == 0.25


def test_slices_are_by_task_by_source_and_by_attribute() -> None:
    examples = [
        vqa("q1", "7", source="one", kind="which"),
        vqa("q2", "red", source="two", kind="colour"),
        vqa("q3", "blue", source="two", kind="colour"),
        caption("c1", "a red seven", source="two"),
        caption("c2", "a blue three", source="two"),
    ]
    _, scores = score(examples, {"q1": "7", "q2": "red", "q3": "red", "c1": "a red seven", "c2": "no"})
    _, control = score(examples, {"q1": "no", "q2": "no", "q3": "blue", "c1": "no", "c2": "no"})
    found = {(each.name, each.value): each for each in slices(examples, scores, control)}
    assert {place: each.num_examples for place, each in found.items()} == {
        ("task", "vqa"): 3,
        ("task", "caption"): 2,
        ("source", "one"): 1,
        ("source", "two"): 4,
        ("kind", "which"): 1,
        ("kind", "colour"): 2,
        ("answer_words", "1"): 3,
        ("answer_words", "3"): 2,
    }
    assert found["task", "vqa"].metrics == {"vqa_accuracy": pytest.approx(2 / 3)}
    assert found["task", "vqa"].control == {"vqa_accuracy": pytest.approx(1 / 3)}
    assert found["kind", "colour"].metrics == {"vqa_accuracy": 0.5}
    assert found["kind", "colour"].control == {"vqa_accuracy": 0.5}
    assert found["source", "two"].metrics["vqa_accuracy"] == 0.5
    assert found["source", "two"].metrics["caption_exact_match"] == 0.5
    assert found["source", "two"].control["caption_exact_match"] == 0.0


@pytest.mark.parametrize(("num_values", "told"), [(1, False), (2, True), (MAX_SLICES_PER_ATTRIBUTE, True),
                                                  (MAX_SLICES_PER_ATTRIBUTE + 1, False)])  # fmt: skip
def test_an_attribute_that_names_examples_or_nothing_makes_no_slices(num_values: int, told: bool) -> None:
    examples = [vqa(f"q{number}", "7", digit=f"{number % num_values}") for number in range(60)]
    _, scores = score(examples, {example.example_id: "7" for example in examples})
    found = [each for each in slices(examples, scores, scores) if each.name == "digit"]
    assert len(found) == (num_values if told else 0)


def test_an_example_is_ranked_by_the_metric_of_its_task() -> None:
    assert headline({"vqa_accuracy": 0.5}) == 0.5
    assert headline({"rouge_l": 0.2, "cider_d": 3.0}) == 3.0
    assert headline({"rouge_l": 0.2}) == 0.2


def test_a_label_is_right_or_wrong() -> None:
    examples = [Example(name, name, "classify", "", (name,), "test", "one", label=name) for name in ("cat", "dog")]
    metrics, per_example = score(examples, {"cat": "cat", "dog": "dogs"})
    assert metrics["accuracy"] == 0.5
    assert metrics["recall_macro"] == 0.5 and metrics["f1_macro"] == pytest.approx(0.5)
    assert per_example == {"cat": {"accuracy": 1.0}, "dog": {"accuracy": 0.0}}
    classes, confusion = by_label(examples, {"cat": "cat", "dog": "dogs"})
    assert [(each.label, each.num_examples, each.recall) for each in classes] == [("cat", 1, 1.0), ("dog", 1, 0.0)]
    assert confusion is not None and confusion.said == ["cat", "dog", OTHER]
    assert confusion.counts == [[1, 0, 0], [0, 0, 1]]


def test_a_mean_has_an_interval_that_counts_images_and_not_questions() -> None:
    """Ten questions about each image, all right or all wrong: they are no more than one each."""
    alone = [vqa(f"q{image}", "7", image=f"i{image}") for image in range(40)]
    tenfold = [vqa(f"q{image}-{n}", "7", image=f"i{image}") for image in range(40) for n in range(10)]

    def half_right(examples: list[Example]) -> dict[str, str]:
        return {each.example_id: "7" if int(each.image_id[1:]) % 2 else "no" for each in examples}

    once = intervals(alone, score(alone, half_right(alone))[1])["vqa_accuracy"]
    often = intervals(tenfold, score(tenfold, half_right(tenfold))[1])["vqa_accuracy"]
    assert once.low < 0.4 < 0.6 < once.high
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)
    told = {**half_right(alone), "other": "7"}
    mixed = [*alone, vqa("other", "7", source="two")]
    _, scores = score(mixed, told)
    by_source = {each.value: each for each in slices(mixed, scores, scores) if each.name == "source"}
    assert by_source["one"].intervals["vqa_accuracy"] == once


def labelled(name: str, label: str) -> Example:
    return Example(name, "i" + name, "classify", "", (label,), "test", "one", label=label)


def numbered(name: str, *numbers: float) -> Example:
    return Example(name, "i" + name, "regress", "", (), "test", "one", numbers=numbers)


def test_numbers_are_scored_in_their_units_and_each_example_in_standard_deviations() -> None:
    space = AnswerSpace(number_means=(0.0, 10.0), number_deviations=(1.0, 4.0))
    examples = [numbered("a", 1.0, 10.0), numbered("b", 2.0, 14.0), numbered("c", 4.0, 8.0)]
    said = {"a": Reply(numbers=(1.0, 10.0)), "b": Reply(numbers=(3.0, 10.0)), "c": Reply(numbers=(4.0, 4.0))}
    metrics, per_example = Scorer(examples, space).score(said)
    # b: one deviation off in each; c: one off in the second.
    assert {name: found["neg_mse"] for name, found in per_example.items()} == {"a": 0.0, "b": -1.0, "c": -0.5}
    assert metrics["neg_mse"] == pytest.approx(-0.5)
    assert metrics["mse"] == pytest.approx(((1 / 3) + (16 + 16) / 3) / 2)
    assert {"pearson", "spearman"} <= metrics.keys()


def test_a_heads_scores_give_top_k_and_areas_and_an_unknown_label_takes_them_away() -> None:
    space = AnswerSpace(labels=("ant", "bee", "cat"))
    examples = [labelled("1", "ant"), labelled("2", "bee"), labelled("3", "cat")]
    rows = {"1": (-0.1, -3.0, -4.0), "2": (-0.5, -1.0, -4.0), "3": (-3.0, -2.0, -0.2)}
    said = {name: Reply(space.labels[row.index(max(row))], max(row), numbers=row) for name, row in rows.items()}
    metrics, _ = Scorer(examples, space).score(said)
    assert metrics["accuracy"] == pytest.approx(2 / 3) and "roc_auc_macro" in metrics
    classes, confusion = scoring.by_label(examples, said, space)
    assert confusion is not None and confusion.labels == ["ant", "bee", "cat"] and len(classes) == 3
    unknown = [*examples, labelled("4", "dog")]
    metrics, _ = Scorer(unknown, space).score({**said, "4": said["1"]})
    assert metrics["accuracy"] == pytest.approx(2 / 4) and "roc_auc_macro" not in metrics
