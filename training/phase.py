"""A phase under way: a model, its engine, and what is frozen in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, distributed

from infra.errors import ConfigError, IntegrityError
from training.language_model import frozen_digest
from training.parameter_groups import LANGUAGE_SIDE
from training.prefix_model import load_trainable_state
from training.regimes import trained_and_frozen
from training.schedule import Phase
from training.zero import ZeroEngine

if TYPE_CHECKING:
    from training.setup import Prepared


@dataclass(frozen=True)
class Position:
    """Where a training stands, whole on every rank."""

    step: int
    num_updates: int = 0
    """Of the optimizer in this phase."""
    parameters: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedPhase:
    """What a rank trains between two borders."""

    phase: Phase
    engine: ZeroEngine
    facts: dict[str, object]
    """Numbers of parameters, trained and frozen, by module, and the digest of the frozen ones."""

    @property
    def last(self) -> int:
        return self.phase.last

    def leave(self, step: int) -> Position:
        """What was trained, without the optimizer; the engine is of no use any more. Every rank has to call it."""
        parameters, _ = self.engine.capture(with_moments=False)
        self.engine.destroy()
        return Position(step, parameters=parameters)


def enter(phases: Sequence[Phase], prepared: Prepared, position: Position) -> TrainedPhase:
    """The phase that trains the next global step, from what was trained before.

    At a phase's first step the optimizer starts anew; inside it goes on. Every rank has to call it."""
    step, parameters = position.step, position.parameters
    phase = next((phase for phase in phases if step < phase.last), phases[-1])
    model = prepared.build_model()
    if phase.mapper_only:
        for name, parameter in model.named_parameters():
            if name.startswith(LANGUAGE_SIDE):
                parameter.requires_grad_(False)
    fresh = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not fresh:
        raise ConfigError("nothing is trained; expected a mapper or a regime with parameters. Choose another regime.")
    if not parameters.keys() <= fresh.keys():
        raise ValueError(f"not trained in this phase: {sorted(parameters.keys() - fresh.keys())}")
    load_trainable_state(model, {**fresh, **parameters})
    counts = trained_and_frozen(model)
    facts: dict[str, object] = {
        "num_trained_parameters": sum(count.num_trained for count in counts),
        "num_frozen_parameters": sum(count.num_frozen for count in counts),
        "modules": [list(count) for count in counts],
        "frozen_digest": frozen_digest(model) if distributed.get_rank() == 0 else "",
    }
    # Parts come in eval mode: without this, dropout would begin with the first validation, and again after a restart.
    model.train()
    engine = ZeroEngine(model, prepared.job.config, prepared.job.resources)
    if step > phase.first:
        engine.restore(parameters, position.moments, position.num_updates)
    return TrainedPhase(phase, engine, facts)


def check_frozen(phase: TrainedPhase) -> None:
    """Raises IntegrityError where a frozen parameter is no longer what it was. Every rank has to call it."""
    engine = phase.engine
    if distributed.get_rank() and engine.stage != 3:
        return
    digest = frozen_digest(engine.model, engine.whole)
    if distributed.get_rank() == 0 and digest != phase.facts["frozen_digest"]:
        raise IntegrityError(
            f"the frozen parameters have digest {digest[:12]}… after training; expected "
            f"{str(phase.facts['frozen_digest'])[:12]}… as before. Nothing is exported. Start again on sound memory."
        )


def check_same_frozen(phase: TrainedPhase, step: int, expected: str) -> None:
    """Raises IntegrityError where a checkpoint was trained around other frozen parameters than those loaded now."""
    found = str(phase.facts["frozen_digest"])
    if found != expected:
        raise IntegrityError(
            f"the checkpoint of global step {step} was trained around frozen parameters with digest {expected[:12]}…, "
            f"and the language model read now has {found[:12]}…; expected the same. Give the language model's folder "
            "back the files it had, or start a training of its own with --force train."
        )
