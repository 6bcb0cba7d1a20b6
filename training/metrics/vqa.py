"""VQA accuracy with the official normalisation of answers.

Antol et al. 2015, "VQA: Visual Question Answering"; the rules are those of https://visualqa.org/evaluation.html and
of the evaluation code published with VQA v2. Two of its habits are changed: it normalises only when the human answers
differ from one another (so "Yes." fails against ten times "yes"), and "a" normalises to nothing (so an
empty prediction is right where the answer is the letter a).
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from infra.errors import DataError

_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's i'd've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't "
    "must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_SPELLED_OUT = {short: word for word in _CONTRACTIONS.split() for short in _without_one_apostrophe(word)}
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD_NOT_BEFORE_DIGIT = re.compile(r"\.(?!\d)")
_NUM_AGREEING_PEOPLE = 3
MAX_REMEMBERED = 2**16
"""Answers whose normal form is kept: most are given many times."""


@lru_cache(MAX_REMEMBERED)
def normalize_answer(answer: str) -> str:
    """Lower case, without punctuation and articles, numbers up to ten as digits, contractions with their apostrophe."""
    text = " ".join(answer.split())
    words = [_DIGITS.get(word, word) for word in _strip_punctuation(text).lower().split()]
    normalized = " ".join(_SPELLED_OUT.get(word, word) for word in words if word not in _ARTICLES)
    return normalized or text.lower()


def _strip_punctuation(text: str) -> str:
    """A mark beside a space vanishes, one inside a word becomes a space; "1,000" makes every mark vanish."""
    stripped = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space or _COMMA_IN_NUMBER.search(text) else " ")
    return _PERIOD_NOT_BEFORE_DIGIT.sub("", stripped)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How far people agree with the prediction, 0..1.

    With ten human answers: min(other people who said it / 3, 1), averaged over leaving each person out. With fewer
    than four answers, all the others must agree instead of three; a single answer makes it 1.0 or 0.0. Raises
    DataError on no answers.
    """
    if isinstance(answers, str) or not answers:
        raise DataError(f"found answers {answers!r}; expected a list of one or more. Leave unanswered questions out.")
    predicted = normalize_answer(prediction)
    agrees = [normalize_answer(answer) == predicted for answer in answers]
    if len(agrees) == 1:
        return float(agrees[0])
    num_agreeing, needed = sum(agrees), min(_NUM_AGREEING_PEOPLE, len(agrees) - 1)
    # Integers until the last division: 9 of 10 is exactly 0.9, and the order of the answers cannot matter.
    return sum(min(num_agreeing - own, needed) for own in agrees) / (needed * len(agrees))
