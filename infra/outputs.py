"""Outputs and their manifests: what a step made, named by what made it, visible only when complete.

{store}/{step}/parts/{digest}               immutable bytes, shared by all outputs of the step
{store}/{step}/{fingerprint}/manifest.json  created conditionally, last: its presence means complete
{store}/{step}/journal/{fingerprint}/...    what an unfinished attempt has already made
{store}/{step}/log/{name}/{n}.json          order of commits of one recipe, for `plan` and `status`
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    computed_field,
    field_validator,
    model_validator,
)

from infra.digests import digest_file, digest_json
from infra.errors import IntegrityError
from infra.record import Record, record_of
from infra.sealed import read_checked, seal, unseal
from infra.store import Store


def part_key(step: str, digest: str) -> str:
    return f"{step}/parts/{digest}"


def manifest_key(step: str, fingerprint: str) -> str:
    return f"{step}/{fingerprint}/manifest.json"


FORCED = "forced"
UNFINISHED = ("journal", "checkpoints")
"""Folders of a step where an unfinished attempt leaves what a later one goes on from."""


class Part(BaseModel):
    """One immutable file of an output."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    """What it holds: `images`, `examples`, `features`, `file` ..."""
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    num_rows: int = Field(ge=0)
    name: str = ""
    """Relative path, for parts that make up a folder."""
    facts: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _stays_in_its_folder(cls, name: str) -> str:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError(f"name {name!r} leaves its folder; expected a relative path")
        return name


class Draft(BaseModel):
    """What a step hands over to be committed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    parts: list[Part]
    identity: dict[str, str]
    """Digests that later steps put into their fingerprints, e.g. the dataset digest."""
    counts: dict[str, int] = {}
    facts: dict[str, Any] = {}


class Manifest(BaseModel):
    """The list of an output's parts, and what made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    step: str
    step_version: int
    name: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    config: dict[str, Any]
    inputs: dict[str, str]
    draft: Draft
    record: Record

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def digest(self) -> str:
        """Of everything above. It is written with the manifest, so that an altered one is found when it is read."""
        return digest_json(self.model_dump(mode="json", exclude={"digest"}))

    @model_validator(mode="wrap")
    @classmethod
    def _is_intact(cls, value: Any, handler: ModelWrapValidatorHandler["Manifest"]) -> "Manifest":
        if not isinstance(value, dict) or "digest" not in value:
            return handler(value)
        stated = value["digest"]
        made = handler({name: field for name, field in value.items() if name != "digest"})
        if made.digest != stated:
            raise ValueError(f"its content has the digest {made.digest[:12]}…, but it states {str(stated)[:12]}…")
        return made

    @property
    def parts(self) -> list[Part]:
        return self.draft.parts

    @property
    def identity(self) -> dict[str, str]:
        return self.draft.identity

    @property
    def counts(self) -> dict[str, int]:
        return self.draft.counts

    @property
    def facts(self) -> dict[str, Any]:
        return self.draft.facts

    @property
    def num_rows(self) -> int:
        """Rows of the output, as the end-of-run table shows them."""
        return self.counts.get("rows_out", sum(part.num_rows for part in self.parts))

    def parts_of(self, kind: str) -> list[Part]:
        return [part for part in self.parts if part.kind == kind]


@dataclass(frozen=True)
class OutputRequest:
    """Everything that decides an output's rows. Two equal requests name one output."""

    step: str
    version: int
    """Raised by hand whenever the step's bytes change for equal configuration and inputs."""
    name: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    also_logged_as: str | None = None
    """A second log, e.g. the encoder key, by which other recipes find this output."""

    @cached_property
    def fingerprint(self) -> str:
        return digest_json([self.step, self.version, dict(self.config), dict(self.inputs)])

    @property
    def manifest_key(self) -> str:
        return manifest_key(self.step, self.fingerprint)


class Attempt:
    """One try at an output: uploads parts and notes finished units, so that a later try starts behind them."""

    def __init__(self, store: Store, request: OutputRequest) -> None:
        self.store = store
        self.request = request

    def add_part(self, path: Path, kind: str, num_rows: int, **more: Any) -> Part:
        """Upload a closed, complete local file under its digest."""
        return upload_part(self.store, self.request.step, path, kind, num_rows, **more)

    def note(self, unit: str, result: Mapping[str, Any]) -> None:
        """Remember that a unit of work is done and what came of it."""
        self.store.write(self._journal_key(unit), seal(result))

    def noted(self, unit: str) -> dict[str, Any] | None:
        """What an earlier attempt noted for this unit, or None. A damaged note counts as none."""
        try:
            return read_checked(self.store, self._journal_key(unit), unseal)
        except ValueError:
            return None

    @property
    def is_forced(self) -> bool:
        """Whether the output was there and was taken back to be made anew (`take_back`)."""
        return self.noted(FORCED) is not None

    def holds(self, part: Part) -> bool:
        """Whether a noted part is still there: a damaged one is removed by `verify --repair` and then made again."""
        return self.store.exists(part_key(self.request.step, part.digest))

    def _journal_key(self, unit: str) -> str:
        return f"{self.request.step}/journal/{self.request.fingerprint}/{unit}.json"


def upload_part(store: Store, step: str, path: Path, kind: str, num_rows: int, **more: Any) -> Part:
    """Upload a closed, complete local file under its digest. Uploading equal bytes twice is one object.

    It is uploaded even where it is there already: that heals a damaged object, and makes it young in the eyes of `gc`.
    """
    digest = digest_file(path)
    store.upload(path, part_key(step, digest), digest)
    return Part(kind=kind, digest=digest, size_bytes=path.stat().st_size, num_rows=num_rows, **more)


def find_output(store: Store, request: OutputRequest) -> Manifest | None:
    """The committed output of this request, or None."""
    return read_manifest(store, request.manifest_key)


def take_back(store: Store, request: OutputRequest) -> None:
    """Withdraw a committed output. It is made anew by whoever asks next, also where a first attempt at that stops; what
    an unfinished attempt left is kept, and resumed."""
    if store.exists(request.manifest_key):
        Attempt(store, request).note(FORCED, {})
        store.delete(request.manifest_key)


def read_manifest(store: Store, key: str) -> Manifest | None:
    """Raises IntegrityError where the object is not a manifest."""
    try:
        return read_checked(store, key, Manifest.model_validate_json)
    except ValueError as error:
        raise IntegrityError(
            f"{store.uri}/{key}: not a manifest ({problem_of(error)}); expected what Frostline wrote. "
            "Run `frostline verify --repair`, which removes it, and start again: the output is made anew."
        ) from error


def problem_of(error: BaseException | None) -> str:
    """One line, and where in the JSON, for pydantic's many."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    where = ".".join(str(place) for place in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def ensure_output(
    store: Store, request: OutputRequest, produce: Callable[[Attempt], Draft], resources: Mapping[str, Any]
) -> tuple[Manifest, bool]:
    """The output of this request, and whether it was already there. Every step goes through here."""
    found = find_output(store, request)
    if found is not None:
        log_commit(store, request)  # its writer may have died before it did
        return found, True
    started = time.time()
    draft = produce(Attempt(store, request))
    manifest = Manifest(
        step=request.step,
        step_version=request.version,
        name=request.name,
        fingerprint=request.fingerprint,
        config=dict(request.config),
        inputs=dict(request.inputs),
        draft=draft,
        record=record_of(started, resources),
    )
    committed = commit(store, request, manifest)
    for folder in UNFINISHED:
        store.delete(f"{request.step}/{folder}/{request.fingerprint}")
    return committed, False


def commit(store: Store, request: OutputRequest, manifest: Manifest) -> Manifest:
    """Make the output visible. Where another writer was first, its manifest is the output and ours is dropped."""
    data = manifest.model_dump_json(indent=1).encode()
    if store.create(request.manifest_key, data):
        log_commit(store, request)
        return manifest
    first = find_output(store, request)
    assert first is not None, "a manifest that exists can be read"
    return first


def log_commit(store: Store, request: OutputRequest) -> None:
    """Enter the output into the logs by which it is found, unless it is there."""
    from infra import log

    for name in filter(None, (request.name, request.also_logged_as)):
        newest = log.newest(store, request.step, name)
        if newest is None or newest["fingerprint"] != request.fingerprint:  # the common case costs one read
            log.append(store, request.step, name, {"fingerprint": request.fingerprint})
