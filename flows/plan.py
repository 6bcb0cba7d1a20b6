"""What a run would do, and why. Reads manifests only: no engine is started and nothing is written."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flows.planned_memory import PlannedMemory
from flows.recipe import Recipe
from flows.steps import Outputs, Step, steps_of
from infra import log
from infra.outputs import UNFINISHED, Manifest, OutputRequest, find_output, manifest_key, read_manifest
from infra.remaining import find_remaining
from infra.store import Store
from infra.workspace import Workspace

Action = Literal["run", "reuse", "run_if_changed"]


class PlannedStep(BaseModel):
    """One line of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    action: Action
    reason: str
    changed: list[str]


class Plan(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: list[PlannedStep]
    memory: PlannedMemory | None = None
    """Of the training's ranks, where something is trained."""
    refusal: str = ""
    """Why `frostline run` would not begin, where it would not."""

    @property
    def all_reused(self) -> bool:
        return all(step.action == "reuse" for step in self.steps)

    @property
    def trains(self) -> bool:
        return any(step.name == "train" and step.action != "reuse" for step in self.steps)


def make_plan(
    recipe: Recipe, workspace: Workspace, until: str | None = None, force: frozenset[str] = frozenset()
) -> tuple[Plan, Outputs]:
    """The plan, and the manifests of the steps that would be reused."""
    outputs: dict[str, Manifest] = {}
    planned: list[PlannedStep] = []
    for step in steps_of(recipe):
        waits_for = [need for need in step.needs if need not in outputs and any(p.name == need for p in planned)]
        if waits_for:
            line = _waiting(step, waits_for, recipe, workspace.store)
        else:
            line, found = _decided(step, recipe, outputs, workspace, step.name in force)
            if found is not None:
                outputs[step.name] = found
        planned.append(line)
        if step.name == until:
            break
    return Plan(steps=planned), outputs


def _decided(
    step: Step, recipe: Recipe, outputs: Outputs, workspace: Workspace, forced: bool
) -> tuple[PlannedStep, Manifest | None]:
    request = step.request(recipe, outputs, workspace)
    found = find_output(workspace.store, request)
    if found is not None and forced:
        return PlannedStep(name=step.name, action="run", reason="forced by --force", changed=[]), None
    if found is not None:
        return PlannedStep(name=step.name, action="reuse", reason=why_reused(found), changed=[]), found
    earlier = newest_output(workspace.store, step.name, recipe.name)
    changed = [change.name for change in changes(step.section, request, earlier)] if earlier else []
    reason = _why(step, request, earlier, changed, workspace.store)
    return PlannedStep(name=step.name, action="run", reason=reason, changed=changed), None


def why_reused(found: Manifest) -> str:
    return f"made {found.record.created_at}, fingerprint {found.fingerprint[:12]}"


def _why(step: Step, request: OutputRequest, earlier: Manifest | None, changed: list[str], store: Store) -> str:
    if (remaining := find_remaining(store, step.name, request.fingerprint)) is not None:
        return f"{len(remaining.lost)} of {len(remaining.manifest.parts)} parts were damaged and are made again"
    begun = any(store.list(f"{step.name}/{kind}/{request.fingerprint}") for kind in UNFINISHED)
    resumed = "; an unfinished attempt is resumed" if begun else ""
    if earlier is None:
        return f"no output yet{resumed}"
    if not changed:
        return f"its manifest is gone{resumed}"
    told = [change.told for change in changes(step.section, request, earlier)]
    return f"changed: {', '.join(told)}{resumed}"


def _waiting(step: Step, waits_for: list[str], recipe: Recipe, store: Store) -> PlannedStep:
    """Its inputs are made by a step that runs first; equal results would let it be reused."""
    earlier = newest_output(store, step.name, recipe.name)
    action: Action = "run_if_changed" if earlier else "run"
    reason = (
        f"runs unless {waits_for[-1]} gives what it gave before"
        if earlier
        else f"no output yet; waits for {waits_for[-1]}"
    )
    return PlannedStep(name=step.name, action=action, reason=reason, changed=[])


def newest_output(store: Store, step: str, name: str) -> Manifest | None:
    """The output of this step that was committed last under this recipe's name."""
    entry = log.newest(store, step, name)
    return read_manifest(store, manifest_key(step, entry["fingerprint"])) if entry else None


class Change(BaseModel):
    """A field, an input or a version in which two outputs differ; None where one has no such field."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    kind: Literal["field", "input", "version"]
    before: Any
    now: Any

    @property
    def told(self) -> str:
        """Digests say nothing to people: of an input only its name is told."""
        return self.name if self.kind == "input" else f"{self.name} {self.before!r} → {self.now!r}"


def changes(section: str, request: OutputRequest, earlier: Manifest) -> list[Change]:
    """In what a request differs from an earlier output of its step."""
    fields = _differences("field", _flat(section, earlier.config), _flat(section, request.config))
    inputs = _differences("input", earlier.inputs, request.inputs)
    version = _differences("version", {"step_version": earlier.step_version}, {"step_version": request.version})
    return [*fields, *inputs, *version]


def _differences(
    kind: Literal["field", "input", "version"], before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[Change]:
    return [
        Change(name=name, kind=kind, before=before.get(name), now=now.get(name))
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": 1}} → {"prefix.a.b": 1}; lists by position."""
    if isinstance(value, Mapping):
        return {path: leaf for key, child in value.items() for path, leaf in _flat(f"{prefix}.{key}", child).items()}
    if isinstance(value, list):
        return {path: leaf for n, child in enumerate(value) for path, leaf in _flat(f"{prefix}.{n}", child).items()}
    return {prefix: value}
