"""The digit scenes: seeded, resumable, truthful, and with disjoint handwriting."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from data_prep.sources.base import SourceRow
from data_prep.sources.digit_scenes import (
    ROWS_PER_SCENE,
    DigitScenes,
    DigitScenesConfig,
    handwriting_pool,
)
from data_prep.sources.scene_text import COLOURS, Scene


def source(num_images: int = 40, seed: int = 3) -> DigitScenes:
    return DigitScenes(DigitScenesConfig(kind="digit_scenes", num_images=num_images, seed=seed))


def facts(row: SourceRow) -> tuple[object, ...]:
    return (row.row, row.image(), row.task, row.prompt, row.targets, row.split, row.attributes)


def test_splits_share_no_handwriting() -> None:
    pools = {
        split: {index for digit in range(10) for index in handwriting_pool(split, digit)}
        for split in ("train", "val", "test")
    }
    for one, other in itertools.combinations(pools, 2):
        assert not pools[one] & pools[other]
    assert sum(len(pool) for pool in pools.values()) == 1797
    assert all(handwriting_pool(split, digit) for split in pools for digit in range(10))


def test_a_split_keeps_to_its_pool() -> None:
    """Every split occurs, and a group never spans two."""
    rows = list(source().rows())
    assert {row.split for row in rows} == {"train", "val", "test"}
    groups = {row.split_group: row.split for row in rows}
    assert all(groups[row.split_group] == row.split for row in rows)


def test_same_seed_same_rows_and_a_start_gives_the_tail() -> None:
    rows = [facts(row) for row in source().rows()]
    assert [row[0] for row in rows] == list(range(40 * ROWS_PER_SCENE))
    for start in (0, 1, 6, 100, 239, 240):
        assert [facts(row) for row in source().rows(start)] == rows[start:]


def test_more_images_only_add_rows_and_another_seed_changes_them() -> None:
    few = [facts(row) for row in source(5).rows()]
    more = [facts(row) for row in source(8).rows()]
    assert more[: len(few)] == few
    assert [facts(row) for row in source(5, seed=4).rows()] != few


def test_answers_agree_with_the_scene() -> None:
    for _, rows in itertools.groupby(source(200).rows(), key=lambda row: row.image_uri):
        caption, *asked = rows
        scene = Scene.from_json(caption.attributes["scene"])
        for row in asked:
            kind, answer = row.attributes["question_type"], row.targets[0]
            assert answer == expected_answer(scene, kind, row.prompt), (scene, row.prompt)
        for target in caption.targets:
            assert all(f"{item.colour} {item.digit}" in target for item in scene.items)


def expected_answer(scene: Scene, kind: str, prompt: str) -> str:
    """Written independently of the templates: looks for the words that matter in the prompt."""
    by_column = sorted(scene.items, key=lambda item: item.column)
    by_row = sorted(scene.items, key=lambda item: item.row)
    ends = {"leftmost": by_column[0], "rightmost": by_column[-1]}
    ends |= {"highest": by_row[0], "lowest": by_row[-1]}
    words = prompt.rstrip("?").split()
    digits = [int(word) for word in words if word.isdigit()]
    by_digit = {item.digit: item for item in scene.items}
    match kind:
        case "digit_at":
            return next(str(item.digit) for word, item in ends.items() if word in words)
        case "colour_at":
            return next(item.colour for word, item in ends.items() if word in words)
        case "colour_of":
            return by_digit[digits[0]].colour
        case "digit_in":
            return next(str(item.digit) for item in scene.items if item.colour in words)
        case "count":
            return str(len(scene.items))
        case "exists":
            return "yes" if digits[0] in by_digit else "no"
        case "order":
            first, second = (by_digit[digit].column for digit in digits)
            return "yes" if first < second else "no"
    raise AssertionError(f"unknown kind {kind}")


def test_a_digit_is_painted_in_its_colour_in_its_cell() -> None:
    caption = next(source().rows())
    scene = Scene.from_json(caption.attributes["scene"])
    picture = np.asarray(Image.open(io.BytesIO(caption.image()))).astype(float)
    for item in scene.items:
        rows, columns = (slice(16 * place, 16 * place + 16) for place in (item.row, item.column))
        cell = picture[rows, columns].reshape(-1, 3)
        brightest = cell[cell.sum(axis=1).argmax()]
        nearest = min(COLOURS, key=lambda name: np.abs(brightest - COLOURS[name]).sum())
        assert nearest == item.colour


def test_two_way_questions_are_balanced() -> None:
    """Guessing gives a half at most on one question in five."""
    answers = [row.targets[0] for row in source(600).rows() if row.task == "vqa"]
    for positive, negative in (("yes", "no"), ("2", "3")):
        share = answers.count(positive) / (answers.count(positive) + answers.count(negative))
        assert share == pytest.approx(0.5, abs=0.1)


def test_the_listing_identifies_the_originals() -> None:
    (entry,) = source().listing()
    assert len(entry["digest"]) == 64
