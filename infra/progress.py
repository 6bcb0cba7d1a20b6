"""What long work says while it runs. Steps take a Progress; who shows it (terminal, Prefect, nobody) is open."""

from typing import Protocol


class Progress(Protocol):
    def start(self, label: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a line of `total` units, `done` of them already made by an earlier attempt."""

    def advance(self, label: str, amount: int = 1, note: str = "") -> None:
        """`amount` more units; `note` is a short live remark, such as the loss."""

    def finish(self, label: str) -> None: ...


class Silent:
    """Nobody is watching."""

    def start(self, label: str, total: int, unit: str, done: int = 0) -> None:  # noqa: ARG002 (it says nothing)
        return

    def advance(self, label: str, amount: int = 1, note: str = "") -> None:  # noqa: ARG002
        return

    def finish(self, label: str) -> None:  # noqa: ARG002
        return
