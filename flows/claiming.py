"""One retrain of a model at a time: the claim that a flow run holds on the model's name."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from flows.recipe import Recipe
from infra.claims import Claims, this_process
from infra.store import Store
from infra.workspace import Workspace


def claims_on(store: Store, model_name: str) -> Claims:
    """Beside the ledger of the same name, whose order they protect."""
    return Claims(store, f"register/claims/{model_name}")


@contextmanager
def claimed(
    recipe: Recipe, workspace: Workspace, tell: Callable[[str], None], flow_run_id: str | None = None
) -> Iterator[Workspace]:
    """The workspace with a claim on the recipe's model, by the recipe's `overlap`: waits, raises Held, or has the other
    one end. One that is asked to end meanwhile stops as by Ctrl-C: with a checkpoint, to be gone on from."""

    def give_way(to: str) -> None:
        tell(f"ending, for {to}")
        os.kill(os.getpid(), signal.SIGINT)

    holder = this_process(f"retrain of {recipe.name}", flow_run_id)
    with claims_on(workspace.store, recipe.model_name).held(holder, recipe.overlap, tell, give_way) as claim:
        yield replace(workspace, claim=claim)
