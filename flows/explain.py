"""`frostline explain`: when, how and why an output was made, told from manifests and logs."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from flows.plan import Change, changes
from flows.steps import STEPS
from infra import log
from infra.errors import ConfigError, IntegrityError
from infra.outputs import Manifest, OutputRequest, manifest_key, read_manifest
from infra.store import Store
from infra.verify import manifests

SECTIONS = {step.name: step.section for step in STEPS}
HEXADECIMAL = set("0123456789abcdef")


class Input(BaseModel):
    """A digest that an output was made from, and the output of this store that has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    digest: str
    output: str | None


class Explanation(BaseModel):
    """The contract of `frostline explain --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    output: str
    recipe: str
    created_at: str
    seconds: float
    git_commit: str
    packages: dict[str, str]
    resources: dict[str, Any]
    step_version: int
    compared_with: str | None
    """The nearest earlier output of the step under the same recipe name."""
    reason: str
    changed: list[Change]
    inputs: list[Input]
    counts: dict[str, int]
    num_parts: int
    num_parts_taken_over: int
    """Parts that the output it is compared with has, too."""


def explain(store: Store, named: str) -> Explanation:
    """`named` is STEP/FINGERPRINT, the start of a fingerprint, or RECIPE/STEP for the newest."""
    everything = [found for _, found in manifests(store) if not isinstance(found, IntegrityError)]
    output = _chosen(store, everything, named)
    earlier = _earlier(store, output)
    request = OutputRequest(output.step, output.step_version, output.name, output.config, output.inputs)
    changed = changes(SECTIONS.get(output.step, output.step), request, earlier) if earlier else []
    before = {part.digest for part in earlier.parts} if earlier else set()
    return Explanation(
        output=_place(output),
        recipe=output.name,
        step_version=output.step_version,
        **output.record.model_dump(),
        compared_with=_place(earlier) if earlier else None,
        reason=_reason(earlier, changed),
        changed=changed,
        inputs=[_input(name, digest, output, everything) for name, digest in sorted(output.inputs.items())],
        counts=output.counts,
        num_parts=len(output.parts),
        num_parts_taken_over=sum(part.digest in before for part in output.parts),
    )


def show_explanation(console: Console, found: Explanation) -> None:
    def tell(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    tell(f"{found.output}, recipe {found.recipe}")
    tell(f"  made      {found.created_at} in {found.seconds:.1f} s by commit {found.git_commit[:12]}")
    tell(f"  why       {found.reason}")
    for change in found.changed:
        tell(f"            {change.name}: {_short(change.before)} → {_short(change.now)}")
    for one in found.inputs:
        tell(f"  input     {one.name} {one.digest[:12]}" + (f" of {one.output}" if one.output else ""))
    tell(f"  counts    {', '.join(f'{name} {count:,}' for name, count in found.counts.items())}")
    tell(f"  parts     {found.num_parts}, {found.num_parts_taken_over} of them taken over from the earlier output")


def _chosen(store: Store, everything: list[Manifest], named: str) -> Manifest:
    first, _, second = named.rpartition("/")
    if second in SECTIONS:
        newest = log.newest(store, second, first)
        found = read_manifest(store, manifest_key(second, newest["fingerprint"])) if newest else None
        if found is None:
            names = sorted({manifest.name for manifest in everything if manifest.step == second})
            raise ConfigError(
                f"{named}: recipe {first!r} has no output of {second}; expected a recipe that has one: "
                f"{', '.join(names) or 'none has'}. See `frostline status`."
            )
        return found
    if second and not set(second) <= HEXADECIMAL:
        raise ConfigError(
            f"{named}: {second!r} is no step and no fingerprint; expected RECIPE/STEP with STEP one of "
            f"{', '.join(SECTIONS)}, STEP/FINGERPRINT, or the start of a fingerprint. See `frostline status`."
        )
    fitting = [m for m in everything if m.fingerprint.startswith(second) and first in ("", m.step)]
    if len(fitting) != 1 or not second:
        raise ConfigError(
            f"{named}: {len(fitting)} outputs fit; expected exactly one, as STEP/FINGERPRINT, the start of a "
            "fingerprint or RECIPE/STEP. See `frostline status`."
        )
    return fitting[0]


def _earlier(store: Store, output: Manifest) -> Manifest | None:
    """What was committed last before it under the same name, and is still there."""
    for fingerprint in _before(store, output):
        if (found := read_manifest(store, manifest_key(output.step, fingerprint))) is not None:
            return found
    return None


def _before(store: Store, output: Manifest) -> Iterator[str]:
    fingerprints = [str(entry["fingerprint"]) for entry in log.entries(store, output.step, output.name)]
    own = fingerprints.index(output.fingerprint) if output.fingerprint in fingerprints else len(fingerprints)
    return reversed(fingerprints[:own])


def _reason(earlier: Manifest | None, changed: list[Change]) -> str:
    if earlier is None:
        return "the recipe had no earlier output of this step"
    if not changed:
        return f"nothing changed against {_place(earlier)[:25]}…: it was made anew (--force, or its manifest was gone)"
    told = ", ".join(change.name for change in changed)
    return f"changed against {_place(earlier)[:25]}… of {earlier.record.created_at}: {told}"


def _input(name: str, digest: str, output: Manifest, everything: list[Manifest]) -> Input:
    """The output that has the digest: of the earliest step, which made it where others pass it on; of the same recipe
    where it has one; and then the newest that was there before."""
    order = list(SECTIONS)
    makers = [m for m in everything if _made(m, digest, output) and m.record.created_at <= output.record.created_at]
    makers.sort(key=lambda m: m.record.created_at, reverse=True)
    makers.sort(key=lambda m: (order.index(m.step) if m.step in SECTIONS else len(order), m.name != output.name))
    return Input(name=name, digest=digest, output=_place(makers[0]) if makers else None)


def _made(manifest: Manifest, digest: str, output: Manifest) -> bool:
    """Whether it can have given the digest to `output`. A step names outputs of its own by fingerprint only."""
    if manifest.fingerprint == output.fingerprint:
        return False
    stated = () if manifest.step == output.step else manifest.identity.values()
    return digest in (manifest.fingerprint, *stated)


def _place(manifest: Manifest) -> str:
    return f"{manifest.step}/{manifest.fingerprint}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text[:12] if len(text) == 64 and set(text) <= HEXADECIMAL else text
