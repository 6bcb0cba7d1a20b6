"""What a command about a recipe is asked for."""

from dataclasses import dataclass

from flows.opened import open_workspace
from flows.recipe import Recipe, load_recipe, split_assignments
from infra.progress import Progress
from infra.workspace import Workspace


@dataclass(frozen=True)
class Asked:
    """As typed."""

    recipe: str
    profile: str
    store: str | None
    assignments: tuple[str, ...]

    def opened(self) -> Recipe:
        return load_recipe(self.recipe, split_assignments(self.assignments)[0])

    def workspace(self, progress: Progress, writable: bool) -> Workspace:
        return open_workspace(self.profile, progress, self.store, split_assignments(self.assignments)[1], writable)
