"""Sides that train the same batches from the same weights, round by round."""

from collections.abc import Callable, Mapping
from typing import Any

from results import Runs, interleaved, per_second
from sides import Side

LOSS_TOLERANCE = 1e-3
Asked = tuple[Side, str, dict[str, Any]]
"""(side, command, arguments)"""


def compared(num_rounds: int, asked: Mapping[str, Asked]) -> dict[str, Runs]:
    """Target tokens per second of each, over the same steps. Raises AssertionError where losses differ.

    Losses are compared at the first step: before it nothing was rounded differently."""
    answers = interleaved(num_rounds, {name: _run(*each) for name, each in asked.items()})
    first = {name: answer["losses"][0] for name, found in answers.items() for answer in found}
    assert max(first.values()) - min(first.values()) <= LOSS_TOLERANCE, f"losses of the first step: {first}"
    tokens = {answer["target_tokens"] for found in answers.values() for answer in found}
    assert len(tokens) == 1, f"target tokens of the steps that are counted: {tokens}"
    return {
        name: per_second(side, {"command": command, **arguments}, "target_tokens", answers[name])
        for name, (side, command, arguments) in asked.items()
    }


def _run(side: Side, command: str, arguments: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: side.ask(command, **arguments)
