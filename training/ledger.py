"""The promotion ledger: who became champion, when, why and over whom. MLflow's aliases mirror it (`training.champion`).

    {store}/register/ledger/{model_name}/{n:08d}.json   entry n, created conditionally: one winner per number

It lies in the store and not in MLflow because an MLflow alias is last-writer-wins.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import IntegrityError
from infra.log import create_in, entries_in, newest_in
from infra.store import Store

STEP = "register"
Kind = Literal["promotion", "approved", "promoted_by_hand", "rollback", "alias_moved_by_hand"]
"""By the gate, by `frostline approve`, `promote` or `rollback`, by a person who set the alias in MLflow."""


class LedgerEntry(BaseModel):
    """One change of champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int = Field(ge=1)
    kind: Kind
    model_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    version: str
    """MLflow's number of the version that serves from here on."""
    previous_version: str | None
    """The version that served before; None for the first champion."""
    train_fingerprint: str
    """The `train` output it came from, so that it can be evaluated on new test rows."""
    register_fingerprint: str | None
    """The `register` output that decided about it; None where a person chose it before there was one."""
    inputs: dict[str, str]
    """Inputs of that output, so that registering the champion again finds its own output."""
    reasons: list[str] = Field(min_length=1)
    decided_at: str = ""
    """Set by `append_entry`, like the token."""
    token: str = ""
    """Differs between any two writers, so that a store that compares contents after a lost answer
    cannot take a rival's equal decision for its own."""


def head(store: Store, model_name: str) -> LedgerEntry | None:
    """The newest entry: the champion. None where nothing was ever promoted."""
    found = newest_in(store, folder_of(model_name))
    return None if found is None else _parsed(found, f"{store.uri}/{folder_of(model_name)}")


def history(store: Store, model_name: str) -> list[LedgerEntry]:
    """All entries, oldest first."""
    where = f"{store.uri}/{folder_of(model_name)}"
    return [_parsed(found, where) for found in entries_in(store, folder_of(model_name))]


def former_champions(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """What rollbacks go back through, the next one last: every rollback takes the newest champion off."""
    served: list[LedgerEntry] = []
    for entry in entries:
        if entry.kind == "rollback":
            served.pop()
        else:
            served.append(entry)
    return served[:-1]


def append_entry(store: Store, model_name: str, entry: LedgerEntry) -> LedgerEntry | None:
    """Write entry `entry.number`, which must follow the head that was decided against.

    None when another writer has that number: the champion changed, and the decision must be made again.
    """
    stamped = entry.model_copy(
        update={
            "token": uuid.uuid4().hex,
            "decided_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    )
    fields = stamped.model_dump(exclude={"number"})
    return stamped if create_in(store, folder_of(model_name), entry.number, fields) else None


def folder_of(model_name: str) -> str:
    return f"{STEP}/ledger/{model_name}"


def _parsed(found: dict[str, Any], where: str) -> LedgerEntry:
    try:
        return LedgerEntry.model_validate(found)
    except ValidationError as error:
        problem = error.errors()[0]
        raise IntegrityError(
            f"{where}: entry {found.get('number')} is not a ledger entry "
            f"({'.'.join(map(str, problem['loc']))}: {problem['msg']}); expected what Frostline wrote. "
            "Restore this object from a backup: the ledger is the only record of what serves."
        ) from error
