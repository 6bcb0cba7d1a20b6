"""The digit scenes: seeded, resumable, truthful, and with disjoint handwriting."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from data_prep.sources.base import BadRow, SourceRow
from data_prep.sources.digit_scenes import (
    ROWS_PER_SCENE,
    DigitScenes,
    DigitScenesConfig,
    handwriting_pool,
)
from data_prep.sources.scene_text import COLOURS, Scene


def source(num_images: int = 40, seed: int = 3) -> DigitScenes:
    return DigitScenes(DigitScenesConfig(kind="digit_scenes", num_images=num_images, seed=seed))


def rows_of(scenes: DigitScenes) -> list[SourceRow]:
    (file,) = scenes.files()
    rows = list(scenes.rows(file))
    assert not any(isinstance(row, BadRow) for row in rows)
    return [row for row in rows if isinstance(row, SourceRow)]


def facts(row: SourceRow) -> tuple[object, ...]:
    return (row.row, row.image.read(), row.task, row.prompt, row.targets, row.split, row.attributes)


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
    rows = rows_of(source())
    assert {row.split for row in rows} == {"train", "val", "test"}
    groups = {row.split_group: row.split for row in rows}
    assert all(groups[row.split_group] == row.split for row in rows)


def test_same_seed_same_rows() -> None:
    rows = [facts(row) for row in rows_of(source())]
    assert [row[0] for row in rows] == list(range(40 * ROWS_PER_SCENE))
    assert [facts(row) for row in rows_of(source())] == rows


def test_more_images_only_add_rows_and_another_seed_changes_them() -> None:
    few = [facts(row) for row in rows_of(source(5))]
    more = [facts(row) for row in rows_of(source(8))]
    assert more[: len(few)] == few
    assert [facts(row) for row in rows_of(source(5, seed=4))] != few


def test_answers_agree_with_the_scene() -> None:
    for _, rows in itertools.groupby(rows_of(source(200)), key=lambda row: row.image.uri):
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
    caption = rows_of(source())[0]
    scene = Scene.from_json(caption.attributes["scene"])
    picture = np.asarray(Image.open(io.BytesIO(caption.image.read()))).astype(float)
    for item in scene.items:
        rows, columns = (slice(16 * place, 16 * place + 16) for place in (item.row, item.column))
        cell = picture[rows, columns].reshape(-1, 3)
        brightest = cell[cell.sum(axis=1).argmax()]
        nearest = min(COLOURS, key=lambda name: np.abs(brightest - COLOURS[name]).sum())
        assert nearest == item.colour


def test_two_way_questions_are_balanced() -> None:
    """Guessing gives a half at most on one question in five."""
    answers = [row.targets[0] for row in rows_of(source(600)) if row.task == "vqa"]
    for positive, negative in (("yes", "no"), ("2", "3")):
        share = answers.count(positive) / (answers.count(positive) + answers.count(negative))
        assert share == pytest.approx(0.5, abs=0.1)


def test_scenes_are_known_again_in_a_larger_set_and_not_under_another_seed_or_size() -> None:
    """What the step needs to read only new scenes: the file has changed, the pictures have not."""

    def images(scenes: DigitScenes) -> set[tuple[str, str]]:
        return {(row.image.uri, row.image.version) for row in rows_of(scenes)}

    assert source(5).files() != source(8).files()
    assert images(source(5)) < images(source(8))
    assert not images(source(5)) & images(source(5, seed=4))
    larger = DigitScenes(DigitScenesConfig(kind="digit_scenes", num_images=5, seed=3, image_size_px=96))
    assert not images(source(5)) & images(larger)


def test_the_listing_covers_the_originals_and_how_they_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = source().listing()
    assert before.size_bytes > 10_000
    monkeypatch.setattr("data_prep.sources.digit_scenes.DRAWING_VERSION", 2)
    (after,) = source().listing()
    assert before.version != after.version
