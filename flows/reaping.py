"""`frostline reap`: what died without a word holds nothing any more, and Prefect knows that it died."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.claiming import all_claims
from flows.prefect_server import prefect_client
from flows.telling import tell_failure
from infra.errors import ConfigError, FrostlineError
from infra.holders import Holder, this_process
from infra.store import Store

BEAT = "reaper.beat"
"""A file in `var_dir`, touched after each pass that went well."""
NO_FLOW_RUN = "it had none"


@dataclass(frozen=True)
class Reaped:
    """One that was lost, and what Prefect was told."""

    holder: Holder
    flow_run: str


def reap(store: Store) -> list[Reaped]:
    """One pass over the claims of all models. Raises PlatformError where the store or Prefect is away, ConfigError
    where a flow run died and no Prefect is named: what was not told yet is found again by the next pass."""
    found: list[Reaped] = []
    with _prefect() as mark:
        for claims in all_claims(store):
            claims.reap(this_process("the reaper"), lambda holder: found.append(Reaped(holder, mark(holder))))
    return found


def reap_again_and_again(
    store: Store, seconds: float, on_pass: Callable[[list[Reaped]], None], on_error: Callable[[str], None]
) -> None:
    """Until the process is ended."""
    while True:
        try:
            on_pass(reap(store))
        except FrostlineError as error:
            on_error(str(error))
        except Exception as error:
            # It must outlive what one damaged or newer object in the store raises: nobody else looks for the dead.
            on_error(f"this pass failed: {type(error).__name__}: {error}")
        time.sleep(seconds)


@contextmanager
def _prefect() -> Iterator[Callable[[Holder], str]]:
    """Marks the flow run of a holder, and says in words what was done."""
    if not os.environ.get("PREFECT_API_URL"):
        yield _had_none
        return
    with prefect_client("to take the state of a flow run that died", "Start it, then reap again.") as client:
        yield lambda holder: _mark(client, holder)


def _had_none(holder: Holder) -> str:
    """Freed without being marked, its flow run would be `Running` for ever."""
    if holder.flow_run_id is not None:
        raise ConfigError(
            f"{holder.told()} was lost and was flow run {holder.flow_run_id}; expected PREFECT_API_URL to name the "
            "server that is to be told so. Set it, as `frostline up` prints it, and reap again."
        )
    return NO_FLOW_RUN


def _mark(client: Any, holder: Holder) -> str:
    from prefect.client.schemas.objects import State, StateType
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed

    if holder.flow_run_id is None:
        return NO_FLOW_RUN
    try:
        flow_run = client.read_flow_run(UUID(holder.flow_run_id))
    except ObjectNotFound:
        return "not known to this Prefect server"
    # A process tells its last state before it ends, and this one had ended: nobody else will change it.
    if flow_run.state is None or flow_run.state.is_final():
        return f"{flow_run.name} is {flow_run.state_name} already"
    message = f"nothing was heard any more of {holder.told()}"
    was_asked = flow_run.state_type == StateType.CANCELLING
    state: State[Any] = Cancelled(message=message) if was_asked else Crashed(message=message)
    client.set_flow_run_state(flow_run.id, state, force=True)
    done = f"{flow_run.name} is marked as {state.name}"
    problem = None if was_asked else tell_failure(str(flow_run.id), flow_run.name, str(state.name), message)
    return f"{done}; {problem}" if problem else done
