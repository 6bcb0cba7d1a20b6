"""A person's word on a model that waits for approval: one object per decision of the gate, whoever is first.

{store}/register/verdicts/{model_name}/{fingerprint of the register output}.json
"""

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra import log
from infra.errors import IntegrityError
from infra.sealed import read_checked, seal, unseal
from infra.store import Store
from training.ledger import STEP


class Verdict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    word: Literal["approved", "refused"]
    version: str
    reason: str | None
    decided_at: str


def give_verdict(
    store: Store, model_name: str, fingerprint: str, word: Literal["approved", "refused"], version: str,
    reason: str | None,
) -> tuple[Verdict, bool]:  # fmt: skip
    """The verdict that stands, and whether it is this one: somebody may have given one before."""
    made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    verdict = Verdict(word=word, version=version, reason=reason, decided_at=made_at)
    if store.create(_key(model_name, fingerprint), seal(verdict.model_dump())):
        return verdict, True
    return read_verdict(store, model_name, fingerprint) or verdict, False


def read_verdict(store: Store, model_name: str, fingerprint: str) -> Verdict | None:
    """Raises IntegrityError where it is damaged."""
    key = _key(model_name, fingerprint)
    try:
        found = read_checked(store, key, unseal)
        return None if found is None else Verdict.model_validate(found)
    except (ValueError, ValidationError) as error:
        raise IntegrityError(
            f"{store.uri}/{key}: not a verdict ({error}); expected what Frostline wrote. Restore this object from a "
            "backup, or remove it and approve or refuse again."
        ) from error


def refusal_of(store: Store, model_name: str, model_digest: str) -> Verdict | None:
    """Of a person who refused this model, whichever champion the gate had compared it with then."""
    for entry in log.entries(store, STEP, model_digest):
        verdict = read_verdict(store, model_name, entry["fingerprint"])
        if verdict is not None and verdict.word == "refused":
            return verdict
    return None


def _key(model_name: str, fingerprint: str) -> str:
    return f"{STEP}/verdicts/{model_name}/{fingerprint}.json"
