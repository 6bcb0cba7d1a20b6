"""What a digit scene is, and what can be said and asked about it.

Pure text: the source pairs it with pictures, the base step's language model is pretrained on it alone.
"""

import json
import random
from dataclasses import asdict, dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 50, 45),
    "green": (50, 200, 70),
    "blue": (60, 95, 255),
    "yellow": (240, 220, 50),
    "purple": (190, 70, 220),
    "white": (240, 240, 240),
}
"""No name starts with a vowel, so that the article is always "a"."""
GRID = 3
COLUMN_WORDS = ("left", "centre", "right")
ROW_WORDS = ("top", "middle", "bottom")


@dataclass(frozen=True)
class Item:
    digit: int
    colour: str
    column: int
    row: int


@dataclass(frozen=True)
class Scene:
    """Two or three items from left to right; no two share a digit, a colour, a column or a row,
    so that every question has exactly one answer."""

    items: tuple[Item, ...]

    def to_json(self) -> str:
        return json.dumps([asdict(item) for item in self.items], separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Scene":
        return Scene(tuple(Item(**item) for item in json.loads(text)))


@dataclass(frozen=True)
class Question:
    kind: str
    prompt: str
    answer: str


def draw_scene(rng: random.Random) -> Scene:
    num_items = rng.choice((2, 3))
    columns = sorted(rng.sample(range(GRID), num_items))
    rows = rng.sample(range(GRID), num_items)
    digits = rng.sample(range(10), num_items)
    colours = rng.sample(sorted(COLOURS), num_items)
    return Scene(tuple(Item(*facts) for facts in zip(digits, colours, columns, rows, strict=True)))


def captions(scene: Scene) -> tuple[str, ...]:
    """All paraphrases that count as right."""
    names = [f"{item.colour} {item.digit}" for item in scene.items]
    if len(names) == 2:
        left, right = names
        return (
            f"a {left} left of a {right}",
            f"a {right} right of a {left}",
            f"a {left} next to a {right}",
        )
    left, centre, right = names
    return (
        f"a {left}, a {centre} and a {right}",
        f"a {centre} between a {left} and a {right}",
        f"from left to right a {left}, a {centre}, a {right}",
    )


def questions(scene: Scene, rng: random.Random) -> tuple[Question, ...]:
    """Five questions. One in five has two possible answers, the others six to ten: guessing is poor."""
    by_place = {
        "leftmost": scene.items[0],
        "rightmost": scene.items[-1],
        "highest": min(scene.items, key=lambda item: item.row),
        "lowest": max(scene.items, key=lambda item: item.row),
    }
    places = rng.sample(sorted(by_place), 2)
    digit_place, colour_place = by_place[places[0]], by_place[places[1]]
    by_digit, by_colour = rng.sample(scene.items, 2)
    return (
        Question("digit_at", f"which digit is {places[0]}?", str(digit_place.digit)),
        Question("colour_at", f"what colour is the {places[1]} digit?", colour_place.colour),
        Question("colour_of", f"what colour is the {by_digit.digit}?", by_digit.colour),
        Question("digit_in", f"which digit is {by_colour.colour}?", str(by_colour.digit)),
        _two_way_question(scene, rng),
    )


def _two_way_question(scene: Scene, rng: random.Random) -> Question:
    kind = rng.choice(("count", "exists", "order"))
    if kind == "count":
        return Question(kind, "how many digits are there?", str(len(scene.items)))
    yes = rng.random() < 0.5
    if kind == "exists":
        present = [item.digit for item in scene.items]
        absent = [digit for digit in range(10) if digit not in present]
        digit = rng.choice(present if yes else absent)
        return Question(kind, f"is there a {digit}?", "yes" if yes else "no")
    left, right = sorted(rng.sample(scene.items, 2), key=lambda item: item.column)
    first, second = (left, right) if yes else (right, left)
    prompt = f"is the {first.digit} left of the {second.digit}?"
    return Question(kind, prompt, "yes" if yes else "no")
