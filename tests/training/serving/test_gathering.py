"""What waits while a batch is computed is the next batch."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from training.serving.gathering import Gathering


class Doubling:
    """Doubles numbers, once it is let go on; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.begun.set()
        assert self.go_on.wait(10)
        if 13 in numbers:
            raise ValueError("13 was asked")
        return [2 * number for number in numbers]


async def gathered(doubling: Doubling, first: list[int], then: list[int], gone: int | None = None) -> list[object]:
    """The first are computed when the others come; `gone` of them goes away before its batch."""
    with ThreadPoolExecutor(1) as thread:
        gathering: Gathering[int, int] = Gathering(doubling, 4, thread)
        tasks = [asyncio.create_task(gathering.add(number)) for number in first]
        await asyncio.to_thread(doubling.begun.wait, 10)
        tasks += [asyncio.create_task(gathering.add(number)) for number in then]
        await asyncio.sleep(0.05)
        if gone is not None:
            tasks[gone].cancel()
            await asyncio.sleep(0)
        doubling.go_on.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))


def test_a_lonely_item_waits_for_nobody_and_those_that_come_meanwhile_share_a_batch() -> None:
    doubling = Doubling()
    assert asyncio.run(gathered(doubling, [1], [2, 3, 4, 5, 6])) == [2, 4, 6, 8, 10, 12]
    assert doubling.batches == [[1], [2, 3, 4, 5], [6]]


def test_who_went_away_is_not_computed() -> None:
    doubling = Doubling()
    found = asyncio.run(gathered(doubling, [1], [2, 3], gone=1))
    assert [found[0], found[2]] == [2, 6]
    assert doubling.batches == [[1], [3]]


def test_what_a_batch_raises_is_told_to_its_items_and_the_next_batch_goes_on() -> None:
    doubling = Doubling()
    found = asyncio.run(gathered(doubling, [13], [2]))
    assert isinstance(found[0], ValueError) and found[1] == 4


@pytest.mark.parametrize("number", [1, 9])
def test_nothing_is_lost(number: int) -> None:
    doubling = Doubling()
    numbers = list(range(20, 20 + number))
    assert asyncio.run(gathered(doubling, [1], numbers)) == [2 * each for each in [1, *numbers]]
