"""`frostline reap`: what died without a word holds nothing any more, and Prefect knows that it died."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.claiming import all_claims
from flows.prefect_server import prefect_client
from flows.telling import tell_failure
from infra.errors import FrostlineError
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


@dataclass(frozen=True)
class Pass:
    """What one look at the claims of all models found."""

    reaped: list[Reaped]
    problem: FrostlineError | None
    """Of models whose claims could not be reaped, or not all: those of the others were. The next pass finds them again,
    as it does where Prefect is away, or none is named, and a flow run died."""


def reap(store: Store) -> Pass:
    """Raises PlatformError where the store is away."""
    found: list[Reaped] = []
    problems: list[FrostlineError] = []
    for claims in all_claims(store):
        try:
            claims.reap(this_process("the reaper"), lambda holder: found.append(Reaped(holder, _mark(holder))))
        except FrostlineError as error:
            problems.append(error)
        except Exception as error:  # whatever it is, the dead of other models are not to wait for it
            problems.append(FrostlineError(f"{store.uri}/{claims.folder}: {_told(error)}"))
    if len(problems) < 2:
        return Pass(found, problems[0] if problems else None)
    return Pass(found, FrostlineError(" ".join(str(problem) for problem in problems)))


def reap_again_and_again(
    store: Store, seconds: float, on_pass: Callable[[Pass], None], on_error: Callable[[str], None]
) -> None:
    """Until the process is ended."""
    while True:
        try:
            on_pass(reap(store))
        except Exception as error:  # it must outlive whatever a pass raises: nobody else looks for the dead
            on_error(_told(error))
        time.sleep(seconds)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, FrostlineError) else f"this pass failed: {type(error).__name__}: {error}"


def _mark(holder: Holder) -> str:
    """Take the state of a holder's flow run, and say in words what was done. Raises ConfigError or PlatformError where
    there is one and Prefect does not hear of it: its claim freed, it would be `Running` for ever."""
    if holder.flow_run_id is None:
        return NO_FLOW_RUN
    with prefect_client(f"to hear that {holder.told()} was lost", "Start it, then reap again.") as client:
        return _marked(client, holder, holder.flow_run_id)


def _marked(client: Any, holder: Holder, flow_run_id: str) -> str:
    from prefect.client.schemas.objects import State, StateType
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed

    try:
        flow_run = client.read_flow_run(UUID(flow_run_id))
    except ObjectNotFound:
        return "not known to this Prefect server"
    # A process tells its last state before it ends, and this one had ended: nobody else will change it.
    if flow_run.state is None or flow_run.state.is_final():
        return f"{flow_run.name} is {flow_run.state_name} already"
    message = f"nothing was heard any more of {holder.told()}"
    was_asked = flow_run.state_type == StateType.CANCELLING
    state: State[Any] = Cancelled(message=message) if was_asked else Crashed(message=message)
    # Told first: a reaper that dies in between tells it again in its next life, and a state that is set ends it. A
    # receiver that is away keeps no claim from being freed.
    problem = None if was_asked else tell_failure(str(flow_run.id), flow_run.name, str(state.name), message)
    client.set_flow_run_state(flow_run.id, state, force=True)
    done = f"{flow_run.name} is marked as {state.name}"
    return f"{done}; {problem}" if problem else done
