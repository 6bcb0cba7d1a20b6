"""Sources opened as a recipe opens them, without the step that ingests."""

from typing import Any

from pydantic import TypeAdapter

from data_prep.sources import BadRow, RowFault, Source, SourceConfig, SourceRow, open_source


def opened(**config: Any) -> Source:
    found: SourceConfig = TypeAdapter(SourceConfig).validate_python(config)
    return open_source(found)


def all_rows(source: Source) -> list[SourceRow | BadRow]:
    """Rows of every file; each file counts its own from 0."""
    rows: list[SourceRow | BadRow] = []
    for file in source.files():
        found = list(source.rows(file))
        assert [row.row for row in found] == list(range(len(found)))
        rows += found
    return rows


def good_rows(source: Source) -> list[SourceRow]:
    rows = all_rows(source)
    assert not [row for row in rows if isinstance(row, BadRow)]
    return [row for row in rows if isinstance(row, SourceRow)]


def bad_rows(source: Source) -> list[BadRow]:
    return [row for row in all_rows(source) if isinstance(row, BadRow)]


def fault_of(row: SourceRow) -> str:
    """The reason why its picture cannot be read."""
    try:
        row.image.read()
    except RowFault as fault:
        return fault.reason
    raise AssertionError(f"{row.image.name} was read")


def versions(source: Source) -> dict[str, str]:
    return {file.name: file.version for file in source.files()}
