"""Objectives that are trained together: what each asks of an example, kept apart by number."""

from dataclasses import dataclass

from training.objectives.config import ObjectivesConfig


@dataclass(frozen=True)
class Objective:
    """One term of the loss."""

    name: str
    task: str
    """Of the examples it reads."""
    template: str
    """The text before the target; {prompt} is the example's own."""
    weight: float
    has_head: bool
    """Read at the end of its text by a head, and not at each of its target's tokens."""
    sees_image: bool = True
    """False where its text is read alone, to be compared with the image."""

    def prompt(self, asked: str) -> str:
        return self.template.replace("{prompt}", asked)


def objectives_of(config: ObjectivesConfig) -> tuple[Objective, ...]:
    """Sorted by name: an objective's place here is its number in O."""
    return tuple(_objective(name, config) for name in config.names)


def _objective(name: str, config: ObjectivesConfig) -> Objective:
    own = getattr(config, name)
    if name == "contrast":
        return Objective(name, "caption", "", own.weight, has_head=True, sees_image=False)
    has_head = name == "regress" or getattr(own, "by", "text") == "head"
    return Objective(name, name, own.prompt, own.weight, has_head)
