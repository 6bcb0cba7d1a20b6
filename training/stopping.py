"""When a training ends before its last epoch, and which validation was the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from training.config import StoppingConfig


@dataclass
class Best:
    """Of the validations so far; part of every checkpoint."""

    step: int | None = None
    value: float = float("inf")
    num_since: int = 0
    """Validations that were no better."""

    def see(self, config: StoppingConfig, step: int, values: Mapping[str, float]) -> bool:
        """Whether this validation is the best so far. An objective without validation examples never is."""
        value = values.get(config.metric, float("inf"))
        if value < self.value:
            self.step, self.value, self.num_since = step, value, 0
            return True
        self.num_since += 1
        return False

    def ends(self, config: StoppingConfig) -> bool:
        return config.patience is not None and self.num_since >= config.patience

    def state(self) -> dict[str, object]:
        """JSON has no infinity."""
        return asdict(self) | {"value": self.value if self.step is not None else None}

    @classmethod
    def from_state(cls, state: Mapping[str, object]) -> Best:
        value = state["value"]
        return cls(**{**state, "value": float("inf") if value is None else value})  # type: ignore[arg-type]
