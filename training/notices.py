"""What people want to hear of and is no change of champion: models that were refused, and those that wait for approval.

{store}/register/notices/{model_name}/{n:08d}.json
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import IntegrityError
from infra.log import append_in, entries_in
from infra.store import Store
from training.ledger import STEP
from training.promotion import Promotion

Kind = Literal["refused_by_gate", "refused_by_hand", "awaits_approval"]


class Notice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int = 0
    """Set by the log."""
    kind: Kind
    version: str
    register_fingerprint: str
    reasons: list[str]


def notices(store: Store, model_name: str) -> list[Notice]:
    """Oldest first. Raises IntegrityError where one is damaged, or of a newer Frostline."""
    folder = _folder(model_name)
    found = entries_in(store, folder)
    try:
        return [Notice.model_validate(entry) for entry in found]
    except ValidationError as error:
        raise IntegrityError(
            f"{store.uri}/{folder}: an entry is no notice of this version ({error.errors()[0]['msg']}); expected what "
            "this Frostline writes. Upgrade this machine, or restore the object from a backup."
        ) from error


def note(store: Store, model_name: str, notice: Notice) -> None:
    """Once: an equal one is not written again."""
    append_in(store, _folder(model_name), notice.model_dump(exclude={"number"}))


def note_decision(store: Store, model_name: str, version: str, fingerprint: str, promotion: Promotion) -> None:
    """Where the gate refused, or left it to a person."""
    kind: Kind | None = None
    if promotion.case == "awaits_approval":
        kind = "awaits_approval"
    elif promotion.case in ("fails_control", "fails_floor"):
        kind = "refused_by_gate"
    if kind is not None:
        reasons = promotion.reasons
        note(store, model_name, Notice(kind=kind, version=version, register_fingerprint=fingerprint, reasons=reasons))


def _folder(model_name: str) -> str:
    return f"{STEP}/notices/{model_name}"
