"""What a run would do, and why. Reads manifests only: no engine is started and nothing is written."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flows.recipe import Recipe
from flows.steps import Outputs, Step, steps_of
from infra import log
from infra.outputs import UNFINISHED, Manifest, OutputRequest, find_output, read_manifest
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

    @property
    def all_reused(self) -> bool:
        return all(step.action == "reuse" for step in self.steps)


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
        reason = f"made {found.record.created_at}, fingerprint {request.fingerprint[:12]}"
        return PlannedStep(name=step.name, action="reuse", reason=reason, changed=[]), found
    earlier = newest_output(workspace.store, step.name, recipe.name)
    changed = changes(step, request, earlier) if earlier else []
    reason = _why(step, request, earlier, changed, workspace.store)
    return PlannedStep(name=step.name, action="run", reason=reason, changed=changed), None


def _why(step: Step, request: OutputRequest, earlier: Manifest | None, changed: list[str], store: Store) -> str:
    begun = any(store.list(f"{step.name}/{kind}/{request.fingerprint}") for kind in UNFINISHED)
    resumed = "; an unfinished attempt is resumed" if begun else ""
    if earlier is None:
        return f"no output yet{resumed}"
    if not changed:
        return f"its manifest is gone{resumed}"
    before = _flat(step.section, earlier.config)
    now = _flat(step.section, request.config)
    told = [f"{name} {before.get(name)!r} → {now.get(name)!r}" if name in {*before, *now} else name for name in changed]
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
    return read_manifest(store, f"{step}/{entry['fingerprint']}/manifest.json") if entry else None


def changes(step: Step, request: OutputRequest, earlier: Manifest) -> list[str]:
    """Names of the fields, inputs and versions in which a request differs from an earlier output."""
    before = _flat(step.section, earlier.config)
    now = _flat(step.section, request.config)
    fields = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    names = {*earlier.inputs, *request.inputs}
    inputs = sorted(name for name in names if earlier.inputs.get(name) != request.inputs.get(name))
    version = ["step_version"] if earlier.step_version != request.version else []
    return [*fields, *inputs, *version]


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": 1}} → {"prefix.a.b": 1}; lists by position."""
    if isinstance(value, Mapping):
        return {path: leaf for key, child in value.items() for path, leaf in _flat(f"{prefix}.{key}", child).items()}
    if isinstance(value, list):
        return {path: leaf for n, child in enumerate(value) for path, leaf in _flat(f"{prefix}.{n}", child).items()}
    return {prefix: value}
