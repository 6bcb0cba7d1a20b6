"""Caption scores agree with COCO's own tools, do not depend on order, and have stated corner cases."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from infra.errors import DataError
from training.metrics.captions import BLEU_KEYS, CAPTION_KEYS, CaptionScorer, CaptionScores, caption_exact_match
from training.metrics.tokenize import tokenize_caption

PREDICTIONS = ["a red 7 left of a blue 3", "a green 2", "two dogs on a couch"]
REFERENCES = [
    ["A red 7 left of a blue 3.", "a blue 3, right of a red 7"],
    ["a green 2 above a red 9"],
    ["Two dogs lie on a sofa.", "A couple of dogs sleeping on the couch"],
]


def score_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    return CaptionScorer(references).score(predictions)


def our_tokens(captions: list[str]) -> list[Sequence[str]]:
    return [tokenize_caption(caption) for caption in captions]


def official_scores(
    predictions: list[str],
    references: list[list[str]],
    tokens_of: Callable[[list[str]], Sequence[Sequence[str]]] = our_tokens,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Corpus and single scores of pycocoevalcap's own scorers."""
    tokens = iter(tokens_of([*predictions, *(text for several in references for text in several)]))
    res = {index: [" ".join(next(tokens))] for index in range(len(predictions))}
    gts = {index: [" ".join(next(tokens)) for _ in several] for index, several in enumerate(references)}
    bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
    rouge, rouges = Rouge().compute_score(gts, res)
    cider, ciders = Cider().compute_score(gts, res)
    corpus = {f"bleu_{n + 1}": bleu[n] for n in range(4)} | {"rouge_l": rouge, "cider_d": cider}
    single = {f"bleu_{n + 1}": bleus[n] for n in range(4)} | {"rouge_l": list(rouges), "cider_d": list(ciders)}
    return corpus, single


def assert_scored_as_by_pycocoevalcap(predictions: list[str], references: list[list[str]]) -> CaptionScores:
    """Each caption to the bit; its means over captions are less exact than ours."""
    scores = score_captions(predictions, references)
    corpus, single = official_scores(predictions, references)
    assert set(scores.corpus) == set(scores.per_example) == set(CAPTION_KEYS)
    for key in CAPTION_KEYS:
        assert list(scores.per_example[key]) == [float(score) for score in single[key]], key
        assert scores.corpus[key] == pytest.approx(corpus[key], abs=0 if key in BLEU_KEYS else 1e-12)
    return scores


def test_scores_agree_with_pycocoevalcap() -> None:
    assert_scored_as_by_pycocoevalcap(PREDICTIONS, REFERENCES)


def test_scores_of_many_drawn_captions_agree_with_pycocoevalcap() -> None:
    """Few words, so that captions share n-grams of every order, and lengths from one word to thirty."""
    draw = random.Random(5)
    words = ["a", "the", "red", "blue", "dog", "cat", "on", "of", "two", "with", "sitting", "couch"]

    def caption() -> str:
        return " ".join(draw.choices(words, k=draw.choice((1, 2, 3, 5, 8, 12, 30))))

    references = [[caption() for _ in range(draw.randint(1, 6))] for _ in range(800)]
    predictions = [draw.choice((caption(), several[0], several[-1][:9].rstrip())) for several in references]
    assert_scored_as_by_pycocoevalcap(predictions, references)


def test_scores_do_not_depend_on_what_was_scored_before() -> None:
    """The references are counted once for all three sets of predictions of an evaluation."""
    scorer = CaptionScorer(REFERENCES)
    first = scorer.score(PREDICTIONS)
    assert scorer.score(PREDICTIONS[::-1]) == score_captions(PREDICTIONS[::-1], REFERENCES)
    assert scorer.score(PREDICTIONS) == first


def test_bleu_of_a_hand_computed_case() -> None:
    # 3 of 4 words, 1 of 3 pairs ("a green"), equal lengths: no brevity penalty.
    scores = score_captions(["a green 2 above"], [["a green cat above"]])
    assert scores.corpus["bleu_1"] == pytest.approx(3 / 4)
    assert scores.corpus["bleu_2"] == pytest.approx((3 / 4 * 1 / 3) ** 0.5)


@pytest.mark.shared_data
def test_scores_of_real_captions_agree_with_pycocoevalcap(shared_data: Path) -> None:
    predictions, references = first_against_others(shared_data)
    scores = assert_scored_as_by_pycocoevalcap(predictions, references)
    assert 0.15 < scores.corpus["bleu_4"] < 0.45  # people against people
    assert 0.5 < scores.corpus["cider_d"] < 1.5


@pytest.mark.shared_data
def test_the_order_of_the_examples_changes_no_bit(shared_data: Path) -> None:
    predictions, references = first_against_others(shared_data)
    order = list(range(len(predictions)))
    random.Random(7).shuffle(order)
    scores = score_captions(predictions, references)
    shuffled = score_captions([predictions[at] for at in order], [references[at] for at in order])
    assert shuffled.corpus == scores.corpus
    for key, values in scores.per_example.items():
        assert shuffled.per_example[key] == tuple(values[at] for at in order)


def test_case_and_punctuation_do_not_count() -> None:
    plain = score_captions(["a dog on a couch", "a cat"], [["a dog on a couch"], ["a cat"]])
    decorated = score_captions(["A dog, on a couch.", "a CAT!"], [['"A dog" on a couch'], ["A cat"]])
    assert decorated == plain


def test_an_empty_prediction_scores_zero_everywhere() -> None:
    scores = score_captions(["", "?", *PREDICTIONS], [["a cat"], ["."], *REFERENCES])
    for key in CAPTION_KEYS:
        assert scores.per_example[key][:2] == (0.0, 0.0)


@pytest.mark.parametrize("references", [[["a cat"], ["a dog"]], [["."], ["?"]]])
def test_nothing_but_empty_predictions_is_zero(references: list[list[str]]) -> None:
    assert score_captions(["", " "], references).corpus == dict.fromkeys(CAPTION_KEYS, 0.0)


def test_a_blank_reference_changes_nothing_beside_a_real_one() -> None:
    with_blank = score_captions(PREDICTIONS, [[*several, "..."] for several in REFERENCES])
    assert with_blank == score_captions(PREDICTIONS, REFERENCES)


def test_a_single_example_has_no_cider() -> None:
    scores = score_captions(["a cat"], [["a cat"]])
    assert "cider_d" not in scores.corpus
    assert "cider_d" not in scores.per_example
    assert scores.corpus["rouge_l"] == 1.0


def test_scoring_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    score_captions(PREDICTIONS, REFERENCES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("predictions", "references", "told"),
    [
        (["a cat"], [["a cat"], ["a dog"]], "1 predictions for 2 images"),
        ([], [], "at least one"),
        (["a cat", "a dog"], [["a cat"], []], "image 1"),
        (["a cat"], ["a cat"], "bare string"),
        ("a", [["a cat"]], "bare string"),
    ],
)
def test_wrong_input_is_named(predictions: list[str], references: list[list[str]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        score_captions(predictions, references)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("A red 7", ["a blue 3", "a  red\n7 "], 1.0),
        ("a red 7.", ["a red 7"], 0.0),
        ("", ["a red 7"], 0.0),
        ("", [""], 1.0),
        ("STRASSE", ["straße"], 1.0),
    ],
)
def test_exact_match_ignores_case_and_white_space_only(prediction: str, references: list[str], score: float) -> None:
    assert caption_exact_match(prediction, references) == score


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog can't sit.", "a man 's dog ca n't sit"),
        ("It’s a “STOP” sign -- isn’t it?", "it 's a stop sign is n't it"),
        ("a t-shirt, $5.00 and 50% off", "a t-shirt $ 5.00 and 50 % off"),
        ("the corner of 8th Ave. and St. John's", "the corner of 8th ave. and st. john 's"),
        ("two (2) cats...", "two -lrb- 2 -rrb- cats"),
        ("cannot gonna U.S. 1/2 AT&T", "can not gon na u.s. 1/2 at&t"),
        ("?", ""),
        ("", ""),
    ],
)
def test_tokens_are_those_of_coco(caption: str, tokens: str) -> None:
    assert " ".join(tokenize_caption(caption)) == tokens


@pytest.mark.parametrize(
    "piece", ["a", "a-", "a.", ".", "'", "1,", "http://a.", "<a", "&a", "A&", " ", "wor.d ", "a-.", "aa.", "A", "a/'"]
)
@pytest.mark.timeout(10)
def test_a_very_long_caption_takes_linear_time(piece: str) -> None:
    tokens = tokenize_caption(piece * 50_000)
    assert sum(map(len, tokens)) <= 5 * 50_000 * len(piece)  # at most an entity's name for a character


ADVERSARIAL = [
    "?!", "...", "''", "- -- ---", "(a) [b] {c}", "café naïve 日本語 Straße Москва", "😀 a cat 👍", "word " * 2_000,
    "x" * 5_000,
    "Don't won't I'm he's they're we've you'll she'd 'tis ain't", "“curly” ‘single’ it’s em—dash en–dash",
    "red,blue black/white and/or mid-1990s 12th-century 3D 2nd", "10:30 1,000 3.14 10-29-2011 20's 5% #1 $5",
    "Mr. Smith, Dr. No, etc. St. Bernard U.S. p.m. end.", "C# and C++, R&B @home #tag a_b & c", "half ½ cup, 5¢",
    "the dogs' ball o'clock y'all ma'am rock 'n' roll", "http://example.com foo@bar.com file.txt",
]  # fmt: skip


def java_tokens(captions: list[str]) -> list[list[str]]:
    """Tokens of COCO's own tokenizer; the closing line keeps it from joining the last caption with the file's end."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = {index: [{"caption": caption}] for index, caption in enumerate([*captions, "A cat"])}
    found = PTBTokenizer().tokenize(lines)
    return [found[index][0].split() for index in range(len(captions))]


@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's own tokenizer needs java")
def test_adversarial_tokens_agree_with_the_java_tokenizer() -> None:
    assert [list(tokenize_caption(caption)) for caption in ADVERSARIAL] == java_tokens(ADVERSARIAL)


@pytest.mark.shared_data
@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's own tokenizer needs java")
def test_tokens_of_real_captions_agree_with_the_java_tokenizer(shared_data: Path) -> None:
    document = json.loads((shared_data / "coco_mini" / "captions.json").read_text())
    captions = [" ".join(row["caption"].split()) for row in document["annotations"]]
    assert [list(tokenize_caption(caption)) for caption in captions] == java_tokens(captions)


@pytest.mark.shared_data
@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's own tokenizer needs java")
def test_scores_of_real_captions_are_those_on_java_tokens(shared_data: Path) -> None:
    assert_scored_as_on_java_tokens(*first_against_others(shared_data))


@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's own tokenizer needs java")
def test_scores_of_adversarial_captions_are_those_on_java_tokens() -> None:
    predictions = [*ADVERSARIAL, "a cat on a sofa"]
    assert_scored_as_on_java_tokens(
        predictions, [[f"a cat {text}", f"{text} on a sofa"] for text in reversed(predictions)]
    )


def assert_scored_as_on_java_tokens(predictions: list[str], references: list[list[str]]) -> None:
    scores = score_captions(predictions, references)
    corpus, single = official_scores(predictions, references, java_tokens)
    for key in CAPTION_KEYS:
        assert scores.corpus[key] == pytest.approx(corpus[key], abs=1e-3)
        assert scores.per_example[key] == pytest.approx(single[key], abs=1e-3)


def first_against_others(shared_data: Path) -> tuple[list[str], list[list[str]]]:
    """Each photo's first caption as the prediction, its other captions as references."""
    document = json.loads((shared_data / "coco_mini" / "captions.json").read_text())
    by_image: dict[int, list[str]] = {}
    for row in document["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row["caption"])
    several = [captions for captions in by_image.values() if len(captions) > 1]
    assert len(several) > 100
    return [captions[0] for captions in several], [captions[1:] for captions in several]
