"""A test's end of a training: what its ranks report, and when they are asked to stop."""


class Watching:
    """Keeps the steps that were reported, and asks to stop in global step `stop_at`; by default never."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []

    def report(self, step: int, *_: object) -> None:
        self.steps.append(step)

    def stopping(self) -> bool:
        return self.stop_at is not None and self.steps[-1] + 1 >= self.stop_at
