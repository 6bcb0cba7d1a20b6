"""Two versions of a model side by side, by what their evaluations in the store say."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from infra import log
from infra.errors import ConfigError
from infra.outputs import Manifest, manifest_key, read_manifest
from infra.tracking import DIGEST_TAG, ModelVersion
from training.candidate import ModelPlace
from training.evaluation_config import yardstick
from training.promoting import version_named

EVALUATION = "evaluate"


class ScoredVersion(BaseModel):
    """A version's scores in one evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: str
    model_digest: str
    evaluation_fingerprint: str
    test_digest: str
    metrics: dict[str, float]
    control: dict[str, float]
    """With the images swapped."""


class Comparison(BaseModel):
    """The contract of `frostline compare --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_name: str
    a: ScoredVersion
    b: ScoredVersion
    scored_alike: bool
    """On the same test rows, by the same evaluation configuration."""
    differences: dict[str, float]
    """b less a, by metric. Empty where they were not scored alike."""


def compare(place: ModelPlace, a: str, b: str) -> Comparison:
    """The newest evaluations of both that were scored alike; without any, the newest of each.

    Raises ConfigError where a version was never evaluated in this store."""
    versions = version_named(place, a), version_named(place, b)
    of_a, of_b = (_evaluations(place, version) for version in versions)
    alike = next(((x, y) for x in of_a for y in of_b if yardstick(x) == yardstick(y)), None)
    chosen = alike or (of_a[0], of_b[0])
    scored = [_scored(version, found) for version, found in zip(versions, chosen, strict=True)]
    shared = sorted(scored[0].metrics.keys() & scored[1].metrics.keys()) if alike else []
    return Comparison(
        model_name=place.model_name,
        a=scored[0],
        b=scored[1],
        scored_alike=alike is not None,
        differences={name: scored[1].metrics[name] - scored[0].metrics[name] for name in shared},
    )


def _evaluations(place: ModelPlace, version: ModelVersion) -> list[Manifest]:
    """Newest first."""
    digest = version.tags.get(DIGEST_TAG, "")
    entries = reversed(log.entries(place.store, EVALUATION, digest)) if digest else iter(())
    keys = (manifest_key(EVALUATION, entry["fingerprint"]) for entry in entries)
    found = [manifest for key in keys if (manifest := read_manifest(place.store, key)) is not None]
    if not found:
        raise ConfigError(
            f"{version.uri}: {place.store.uri} holds no evaluation of it; expected at least one. Run its recipe up to "
            "`--until evaluate` on this store, or name the store that it was evaluated in with --store."
        )
    return found


def _scored(version: ModelVersion, evaluation: Manifest) -> ScoredVersion:
    return ScoredVersion(
        version=version.version,
        model_digest=evaluation.inputs["model_digest"],
        evaluation_fingerprint=evaluation.fingerprint,
        test_digest=evaluation.inputs["test_digest"],
        metrics=evaluation.facts["metrics"],
        control=evaluation.facts["control"],
    )
