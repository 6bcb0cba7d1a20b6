"""Expected calibration error on cases computed by hand and against a plain loop."""

import random

import pytest

from infra.errors import DataError
from training.metrics.calibration import CalibrationBin, calibration


def test_a_hand_computed_case() -> None:
    # (0, 0.5]: confidence 0.45 on average, half right; (0.5, 1]: 0.9 on average, all right.
    found = calibration([0.4, 0.5, 0.8, 1.0], [0, 1, 1, 1], num_bins=2)
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.1)
    assert found.bins == (
        CalibrationBin(0.0, 0.5, 2, pytest.approx(0.45), 0.5),
        CalibrationBin(0.5, 1.0, 2, pytest.approx(0.9), 1.0),
    )


def test_the_ends_of_the_scale_are_in_bins_and_empty_bins_are_left_out() -> None:
    found = calibration([0.0, 1.0], [0, 1])
    assert [(each.low, each.high, each.num_examples) for each in found.bins] == [(0.0, 1 / 15, 1), (14 / 15, 1.0, 1)]
    assert found.error == 0.0


def test_partly_right_answers_count_in_part() -> None:
    assert calibration([0.5, 0.5], [0.3, 0.9]).error == pytest.approx(0.1)


def test_it_equals_a_plain_loop_over_the_bins() -> None:
    generator = random.Random(0)
    confidences = [generator.random() for _ in range(500)] + [each / 15 for each in range(16)]
    correct = [float(generator.random() < each**2) for each in confidences]
    error = 0.0
    for number in range(15):
        rows = [
            row for row, each in enumerate(confidences)
            if number / 15 < each <= (number + 1) / 15 or (number == 0 and each == 0)
        ]  # fmt: skip
        error += abs(sum(correct[row] - confidences[row] for row in rows)) / len(confidences)
    assert calibration(confidences, correct).error == pytest.approx(error, abs=2e-3)  # an edge may round either way
    assert sum(each.num_examples for each in calibration(confidences, correct).bins) == len(confidences)


def test_the_order_of_the_rows_changes_no_bit() -> None:
    generator = random.Random(1)
    rows = [(generator.random(), generator.random()) for _ in range(300)]
    found = calibration(*zip(*rows, strict=True))
    generator.shuffle(rows)
    assert calibration(*zip(*rows, strict=True)) == found


@pytest.mark.parametrize(
    ("confidences", "correct", "told"),
    [
        ([], [], "at least one"),
        ([0.5], [1, 0], "1 confidences and 2 answers"),
        ([1.5], [1], "a confidence of 1.5"),
        ([float("nan")], [1], "a confidence of nan"),
        ([0.5], [2], "a correctness of 2"),
    ],
)
def test_wrong_input_is_named(confidences: list[float], correct: list[float], told: str) -> None:
    with pytest.raises(DataError, match=told):
        calibration(confidences, correct)
