"""Records (a JSON object, a line of a table) → rows. Which column holds what is said by the recipe."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict

from data_prep.sources.base import ImageRef, SourceRow, shown
from infra.errors import DataError

Task: TypeAlias = Literal["caption", "vqa", "classify", "regress"]
Split: TypeAlias = Literal["train", "val", "test"]
MAX_TEXT_CHARS = 100_000
"""A longer text is a parse error (a quote that never ends), no caption."""
BAD_RECORD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What `row_of` raises for a record that is no row."""


def _one_or_many(found: Any) -> Any:
    return (found,) if isinstance(found, str) else found


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class Columns(BaseModel):
    """Which columns hold what. A column of these names need not be there; where several are given, all that are
    there count, in this order, and each may hold one value or a list."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image: str = "image"
    question: str = "question"
    answer: Names = ("answers", "answer")
    caption: Names = ("captions", "caption")
    numbers: Names = ("numbers",)
    label: str = "label"
    negatives: Names = ("negatives",)
    split: str = "split"
    split_group: str = "split_group"
    attributes: Names = ("attributes",)
    """A mapping is taken over; a single value is an attribute with its column's name."""

    def check(self, found: Iterable[str], where: str) -> None:
        """Raises DataError where a table lacks the image's column, or one that the recipe names."""
        there = set(found)
        told = shown(", ".join(sorted(there)))
        named = {self.image}
        for field in self.model_fields_set:
            named.update(_one_or_many(getattr(self, field)))
        if missing := sorted(named - there):
            raise DataError(
                f"{where}: the columns {told} were found; expected {', '.join(missing)} too. "
                "Map the source's `columns` in the recipe."
            )


def row_of(
    row: int, record: Mapping[str, Any], image: ImageRef, columns: Columns, split: str | None, task: Task | None = None
) -> SourceRow:
    """The row that a record makes. Raises one of BAD_RECORD where a field is missing or not of its type.

    The task is what the first filled column says: a question, captions, numbers, a label."""
    task = task or _task_of(record, columns)
    label = record.get(columns.label) if task == "classify" else None
    targets = {"vqa": columns.answer, "caption": columns.caption, "classify": (columns.label,), "regress": ()}[task]
    if task in ("vqa", "caption", "classify") and not any(name in record for name in targets):
        raise ValueError(f"none of {', '.join(targets)}")
    return SourceRow(
        row=row,
        image=image,
        task=task,
        prompt=_text(record[columns.question]) if task == "vqa" else "",
        targets=tuple(map(_text, _values(record, targets))),
        split=_optional_text(record.get(columns.split)) or split,
        split_group=_optional_text(record.get(columns.split_group)),
        attributes=_attributes(record, columns.attributes),
        numbers=tuple(map(_number, _values(record, columns.numbers))) if task == "regress" else (),
        label=_optional_text(label),
        negatives=tuple(map(_text, _values(record, columns.negatives))) if task == "caption" else (),
    )


def _task_of(record: Mapping[str, Any], columns: Columns) -> Task:
    named: list[tuple[Task, tuple[str, ...]]] = [
        ("vqa", (columns.question,)),
        ("caption", columns.caption),
        ("regress", columns.numbers),
        ("classify", (columns.label,)),
    ]
    for task, names in named:
        if any(record.get(name) is not None for name in names):
            return task
    for task, names in named:  # a column that is there and empty: a row without targets, which is told apart
        if any(name in record for name in names):
            return task
    raise ValueError("none of " + ", ".join(name for _, names in named for name in names))


def _values(record: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    found = [record[name] for name in names if record.get(name) is not None]
    flat = [value for one in found for value in (one if isinstance(one, list | tuple) else [one])]
    return [value for value in flat if value is not None]


def _text(found: Any) -> str:
    if not isinstance(found, str | int | float):
        raise TypeError(f"a {type(found).__name__} where a text is due")
    text = str(found)
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"a text of {len(text)} characters, where {MAX_TEXT_CHARS} are the most")
    if "\0" in text:
        raise ValueError("a NUL character in a text")
    return text


def _optional_text(found: Any) -> str | None:
    return None if found is None else _text(found)


def _number(found: Any) -> float:
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise TypeError(f"a {type(found).__name__} where a number is due")
    number = float(found)
    if not math.isfinite(number):
        raise ValueError(f"{found} where a finite number is due")
    return number


def _attributes(record: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        value = record.get(name)
        entries = value.items() if isinstance(value, Mapping) else [(name, value)]
        found |= {_text(key): _text(entry) for key, entry in entries if entry is not None}
    return found
