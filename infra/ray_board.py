"""What Ray workers say of their progress while they work, and who passes it on."""

from typing import Any

from infra.progress import Progress


class Board:
    """Lives in an actor: what workers say of their progress, until the driver takes it."""

    def __init__(self) -> None:
        self._said: list[tuple[str, int, str]] = []

    def say(self, label: str, amount: int, note: str) -> None:
        """`amount` more units of `label` are done."""
        self._said.append((label, amount, note))

    def take(self) -> list[tuple[str, int, str]]:
        said, self._said = self._said, []
        return said


def start_board() -> Any:
    """A board's actor handle; it costs no CPU of the cluster's count."""
    import ray

    return ray.remote(num_cpus=0)(Board).remote()


def pass_on(board: Any, progress: Progress) -> None:
    """Tell `progress` what the workers said since the last call."""
    import ray

    for label, amount, note in ray.get(board.take.remote()):
        progress.advance(label, amount, note)
