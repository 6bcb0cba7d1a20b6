"""Versions of one model in a real MLflow and a real store, and what a person or a slow process does to them."""

from pathlib import Path
from typing import Any

from infra import log
from infra.outputs import Draft, Manifest, OutputRequest
from infra.record import record_of
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from training.candidate import ModelPlace, noted_digest
from training.ledger import history
from training.promoting import promote
from training.version import ensure_version


class Model:
    """Versions 1, 2, 3 … of one model, trained into one store and registered; none serves yet."""

    def __init__(self, world: Any, workspace: Workspace, name: str) -> None:
        self.world, self.workspace = world, workspace
        self.place = ModelPlace(workspace.store, Registry(workspace.settings.mlflow), name)
        self.added: list[Any] = []
        """The worlds that they are of."""

    def add(self, alias: str | None = "challenger", decided: bool = True) -> ModelVersion:
        """One more version, and what the gate would have written about it."""
        seed = len(self.place.registry.versions(self.place.model_name))
        trained = self.world.trained(seed) if seed else self.world
        self.added.append(trained)
        for made in (trained.parts.train, trained.evaluation):
            self._commit(made, made.identity["model_digest"])
        version = ensure_version(
            self.place.registry, self.place.model_name, trained.parts, trained.evaluation, self.workspace
        )
        digest = trained.parts.train.identity["model_digest"]
        if decided:
            inputs = {"model_name": self.place.model_name, "model_digest": digest, "champion_digest": "none"}
            reasons = ["cider_d is below the required 0.5"]
            facts = {"promotion": {"alias": alias, "reasons": reasons}, "files_digest": noted_digest(version)}
            self._commit(decision(inputs, facts), digest)
        return version

    def _commit(self, made: Manifest, name: str) -> None:
        self.place.store.create(f"{made.step}/{made.fingerprint}/manifest.json", made.model_dump_json().encode())
        log.append(self.place.store, made.step, name, {"fingerprint": made.fingerprint})

    def promote(self, version: str, force: bool = False) -> bool:
        return promote(self.place, version, "because", force).changed

    @property
    def aliases(self) -> dict[str, str]:
        return self.place.registry.aliases(self.place.model_name)

    def move(self, version: str) -> None:
        """As a person does in MLflow."""
        self.place.registry.set_alias(self.place.model_name, "champion", version)

    @property
    def told(self) -> list[tuple[str, str, str | None]]:
        return [(e.kind, e.version, e.previous_version) for e in history(self.place.store, self.place.model_name)]

    @property
    def store_folder(self) -> Path:
        return Path(self.place.store.uri.removeprefix("file://"))

    def file(self, version: ModelVersion, name: str) -> Path:
        """Where MLflow keeps a file of the version."""
        return Path(version.source_uri.removeprefix("file://")) / name


def decision(inputs: dict[str, str], facts: dict[str, Any]) -> Manifest:
    request = OutputRequest("register", 1, "tiny", {}, inputs)
    return Manifest(
        step="register", step_version=1, name="tiny", fingerprint=request.fingerprint, config={}, inputs=inputs,
        draft=Draft(parts=[], identity={}, facts=facts), record=record_of(0, {}),
    )  # fmt: skip
