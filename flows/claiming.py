"""One retrain of a model at a time: the claim that a flow run holds on the model's name."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flows.recipe import Recipe
from infra.claims import Claims
from infra.errors import ClaimLost, Interrupted
from infra.holders import this_process
from infra.store import Store
from infra.workspace import Workspace

CLAIMS = "register/claims"


def claims_on(store: Store, model_name: str) -> Claims:
    """Beside the ledger of the same name, whose order they protect."""
    return Claims(store, f"{CLAIMS}/{model_name}")


def all_claims(store: Store) -> list[Claims]:
    """Of every model that was ever retrained in the store."""
    names = sorted({key.removeprefix(f"{CLAIMS}/").split("/")[0] for key in store.list(CLAIMS)})
    return [claims_on(store, name) for name in names]


def at_work(store: Store) -> list[dict[str, Any]]:
    """Who holds which model's claim. Only reads."""
    found = []
    for claims in all_claims(store):
        newest = claims.newest()
        if newest is not None and not claims.has_ended(newest):
            heard = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(claims.heard_at(newest)))
            found.append({"claim": newest.number, "heard_at": heard, "holder": newest.holder.told()})
    return found


@contextmanager
def claimed(
    recipe: Recipe, workspace: Workspace, tell: Callable[[str], None], flow_run_id: str | None = None
) -> Iterator[Workspace]:
    """The workspace with a claim on the recipe's model, by the recipe's `overlap`: waits, raises Held, or has the other
    one end. One that is asked to end meanwhile stops as by Ctrl-C, with a checkpoint to be gone on from, and raises
    Interrupted; one that lost its claim, ClaimLost."""
    whys: list[Interrupted | ClaimLost] = []

    def give_way(why: Interrupted | ClaimLost) -> None:
        whys.append(why)
        tell(str(why))
        os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored by what a script started in the background

    holder = this_process(f"retrain of {recipe.name}", flow_run_id)
    claims = claims_on(workspace.store, recipe.model_name)
    try:
        with _sigterm_as_ctrl_c(), claims.held(holder, recipe.overlap, tell, give_way) as claim:
            yield replace(workspace, claim=claim)
    except BaseException as error:
        # What the signal becomes: Interrupted in a training, elsewhere what Prefect or Python raise, no Exception.
        if whys and (isinstance(error, Interrupted) or not isinstance(error, Exception)):
            raise whys[0] from error
        raise


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Where nobody else handles SIGTERM, as Prefect does in flow runs. By default it ends the process at once."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
