"""What each output of a store tells of the work that made it, and of the work that it took over from earlier ones."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from infra.errors import IntegrityError
from infra.outputs import Manifest, read_manifest
from infra.store import Store
from infra.verify import is_manifest

STEPS = ("ingest", "base", "featurize", "train", "quantise", "evaluate", "register")
DEVICES = {
    "base": ("num_actors", "gpus_per_actor"),
    "featurize": ("num_actors", "gpus_per_actor"),
    "train": ("num_ranks", "gpus_per_rank"),
    "evaluate": ("num_actors", "gpus_per_actor"),
}
"""Steps that hold accelerators: where their profile says how many processes there are, and how many GPUs each."""
Device = Literal["gpu", "cpu"]
KEPT_FACTS = ("metrics", "intervals", "promotion", "model")


@dataclass(frozen=True)
class Made:
    """One committed output."""

    step: str
    recipe: str
    fingerprint: str
    made_at: str
    seconds: float
    """Of the attempt that committed it; what was spent by one that was killed nobody knows."""
    device: Device | None
    """None for steps that hold no accelerator. `cpu` where the profile gives none."""
    num_devices: float
    """GPUs held for all of `seconds`; 1 on `cpu`: the machine."""
    counts: Mapping[str, int]
    identity: Mapping[str, str]
    inputs: Mapping[str, str]
    facts: Mapping[str, Any]
    primary_metric: str | None
    """Of the gate, in a `register` output."""
    rows: int
    part_digests: tuple[str, ...]
    units_done: int
    """Images encoded, or replies asked of the model."""
    units_saved: int
    """The same, taken over from earlier outputs."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Medians over the steps of a training: `images_per_second`, `target_tokens_per_second`."""
    parts_saved: int = 0
    """Parts that an earlier output of this step had."""
    seconds_saved: float = 0.0
    """Units saved, at the mean seconds of one done by the same tower, or the same model; start-up of engines included.
    0 where none was."""

    @property
    def accelerator_seconds(self) -> float:
        return self.seconds * self.num_devices if self.device else 0.0

    @property
    def accelerator_seconds_saved(self) -> float:
        return self.seconds_saved * self.num_devices if self.device else 0.0


class OutputReader:
    """Reads the manifests of a store; one that was not written again since it was read is not read again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[str, tuple[float, Made]] = {}

    def read(self) -> tuple[list[Made], list[str]]:
        """All outputs, oldest first; and the keys of manifests that are damaged."""
        found: dict[str, tuple[float, Made]] = {}
        damaged: list[str] = []
        for step in STEPS:
            for each in self.store.objects(step):
                if not is_manifest(each.key):
                    continue
                known = self._known.get(each.key)
                if known is not None and known[0] == each.modified_at:
                    found[each.key] = known
                    continue
                try:
                    manifest = read_manifest(self.store, each.key)
                except IntegrityError:
                    damaged.append(each.key)
                    continue
                if manifest is not None:  # else it was withdrawn meanwhile
                    found[each.key] = each.modified_at, made_of(manifest)
        self._known = found
        in_order = sorted((made for _, made in found.values()), key=lambda made: (made.made_at, STEPS.index(made.step)))
        return _with_savings(in_order), damaged


def made_of(manifest: Manifest) -> Made:
    device, num_devices = _devices(manifest.step, manifest.record.resources)
    done, saved = _units(manifest)
    curves = manifest.facts.get("speed_curves", {})
    names = ("images_per_second", "target_tokens_per_second")
    return Made(
        step=manifest.step,
        recipe=manifest.name,
        fingerprint=manifest.fingerprint,
        made_at=manifest.record.created_at,
        seconds=manifest.record.seconds,
        device=device,
        num_devices=num_devices,
        counts=manifest.counts,
        identity=manifest.identity,
        inputs=manifest.inputs,
        facts={name: manifest.facts[name] for name in KEPT_FACTS if name in manifest.facts},
        primary_metric=manifest.config.get("primary_metric"),
        rows=manifest.num_rows,
        part_digests=tuple(part.digest for part in manifest.parts),
        units_done=done,
        units_saved=saved,
        speeds={name: statistics.median(value for _, value in curves[name]) for name in names if curves.get(name)},
    )


def _devices(step: str, resources: Mapping[str, Any]) -> tuple[Device | None, float]:
    if step not in DEVICES:
        return None, 0.0
    processes, gpus = DEVICES[step]
    section = resources.get(step, {})
    held = float(section.get(processes, 0)) * float(section.get(gpus, 0))
    return ("gpu", held) if held > 0 else ("cpu", 1.0)


def _units(manifest: Manifest) -> tuple[int, int]:
    if manifest.step == "featurize":
        return manifest.counts.get("encoded", 0), manifest.counts.get("reused", 0)
    replies = manifest.facts.get("num_replies", {}) if manifest.step == "evaluate" else {}
    return int(replies.get("asked", 0)), int(replies.get("reused", 0))


def _with_savings(outputs: Sequence[Made]) -> list[Made]:
    """Each with its parts and seconds saved; `outputs` are in the order they were made."""
    seconds, done = _costs(outputs)
    seen: dict[str, set[str]] = defaultdict(set)
    found = []
    for made in outputs:
        group = _group(made)
        cost = seconds[group] / done[group] if done[group] else 0.0
        parts_saved = sum(digest in seen[made.step] for digest in made.part_digests)
        seen[made.step].update(made.part_digests)
        found.append(replace(made, parts_saved=parts_saved, seconds_saved=made.units_saved * cost))
    return found


def _costs(outputs: Iterable[Made]) -> tuple[Mapping[tuple[str, str], float], Mapping[tuple[str, str], int]]:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    done: dict[tuple[str, str], int] = defaultdict(int)
    for made in outputs:
        if made.units_done:
            seconds[_group(made)] += made.seconds
            done[_group(made)] += made.units_done
    return seconds, done


def _group(made: Made) -> tuple[str, str]:
    """Whose units cost alike."""
    return made.step, made.identity.get("encoder_key" if made.step == "featurize" else "model_digest", "")
