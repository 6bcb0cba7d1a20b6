"""A command, the store it starts from, and what an undisturbed run of it passes, reads and makes."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash_points import Point, recorded
from forge import Forge

from infra import log
from infra.outputs import Manifest, Part
from infra.store import LocalStore
from infra.verify import manifests, verify_store


@dataclass
class Case:
    """`arguments` of the program's `run`, between the folder and the answer."""

    forge: Forge
    arguments: Sequence[Any]
    start: Path
    folder: Path
    step: str

    def __post_init__(self) -> None:
        record = self.folder / "points"
        assert self.run(self.folder / "undisturbed", "expected", FAULT_RECORD=str(record)) == 0
        self.expected = self.answer("expected")
        self.units = self.read("expected")
        self.points = [point for point in recorded(record) if not point.call.endswith((".json", ".read"))]
        assert not [point for point in self.points if point.action == "unnamed"], "a durable action without a name"
        self.before = self.outputs(LocalStore(self.start / "store"))

    def run(self, folder: Path, answer: str, **environment: str) -> int:
        if not folder.exists():
            shutil.copytree(self.start, folder)
        if "TMPDIR" not in environment:
            (folder / "tmp").mkdir(exist_ok=True)
            environment["TMPDIR"] = str(folder / "tmp")
        return self.forge.run("run", str(folder), *self.arguments, str(self.folder / answer), **environment)

    def answer(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        found.pop("manifest", None)  # it says when it was made
        return found

    def read(self, name: str) -> list[str]:
        """What it read: an image, or the images of a unit."""
        return (self.folder / f"{name}.read").read_text().split()

    def outputs(self, store: LocalStore) -> dict[str, Any]:
        """Every output a reader sees. Nothing of it is missing or damaged."""
        assert verify_store(store).damaged == []
        found = {key: manifest for key, manifest in manifests(store) if isinstance(manifest, Manifest)}
        for entry in log.entries(store, self.step, "demo"):
            assert f"{self.step}/{entry['fingerprint']}/manifest.json" in found, "a commit is logged before it is made"
        return {key: manifest.draft.model_dump(mode="json") for key, manifest in found.items()}

    def noted(self, store: LocalStore) -> list[list[Part]]:
        """Parts of each unit that is noted as done; they are there."""
        found: list[list[Part]] = []
        for key in store.list(f"{self.step}/journal"):
            parts = [Part.model_validate(part) for part in json.loads(store.read(key) or b"")["value"]["parts"]]
            assert all(store.exists(f"{self.step}/parts/{part.digest}") for part in parts), "noted before it was stored"
            found.append(parts)
        return found

    @property
    def manifest_key(self) -> str:
        return f"{self.step}/{self.expected['fingerprint']}/manifest.json"

    @property
    def after(self) -> dict[str, Any]:
        """What a reader sees in the end, as `outputs` gives it."""
        return {**self.before, self.manifest_key: self.expected["draft"]}

    def check_finished(self, folder: Path, answer: str) -> None:
        """Run it once more, undisturbed: all is as if it always had been."""
        assert self.run(folder, answer) == 0
        assert self.answer(answer) == self.expected
        store = LocalStore(folder / "store")
        assert self.outputs(store) == self.after
        logged = [entry["fingerprint"] for entry in log.entries(store, self.step, "demo")]
        assert (logged.count(self.expected["fingerprint"]), logged[-1]) == (1, self.expected["fingerprint"])


def check_all(case: Case, points: Sequence[Point], check: Callable[[Case, Point], None]) -> None:
    for point in points:
        try:
            check(case, point)
        except AssertionError as error:
            raise AssertionError(f"{point}: {error}") from error
