"""Model versions and aliases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from infra.errors import ConfigError
from infra.tracking.server import answers, open_client

DIGEST_TAG = "model_digest"
COMPLETE_TAG = "frostline.complete"
"""Set last. A version without it was left by a crash."""


def artifact_path(name: str) -> str:
    """Where a run keeps its model's files: one training may be registered under several names, which the files tell."""
    return f"model/{name}"


@dataclass(frozen=True)
class ModelVersion:
    """A registry entry. `version` is text whatever the backend's type."""

    name: str
    version: str
    run_id: str
    source_uri: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def is_complete(self) -> bool:
        return self.tags.get(COMPLETE_TAG) == "true"


def _merged(write: Callable[..., None], *what: str) -> None:
    """Set an alias or a tag, five times at most: MLflow looks for its row, then inserts or updates it, and answers
    BAD_REQUEST where another process made or removed the row in between."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

    crossed = retry_if_exception(lambda error: getattr(error, "error_code", None) == "BAD_REQUEST")
    Retrying(retry=crossed, stop=stop_after_attempt(5), wait=wait_random(0, 0.1), reraise=True)(write, *what)


class Registry:
    """Model versions and aliases of one MLflow."""

    def __init__(self, tracking_uri: str) -> None:
        self.uri = tracking_uri
        self._client = open_client(tracking_uri)

    def register_version(
        self, name: str, model_digest: str, run_id: str, folder: Path, tags: Mapping[str, str]
    ) -> ModelVersion:
        """The version of `name` that holds this model; `folder` (see `write_pyfunc`) is uploaded if there is none.

        One that a crash left half-made is completed with these tags, or replaced where it points elsewhere.
        """
        with answers(self.uri):
            self._ensure_model(name)
            known = self._versions(name, model_digest)
            complete = [version for version in known if version.is_complete]
            if complete:
                return complete[0]
            source_uri = f"{self._client.get_run(run_id).info.artifact_uri}/{artifact_path(name)}"
            self._client.log_artifacts(run_id, str(folder), artifact_path(name))
            if not any(version.source_uri == source_uri for version in known):
                for version in known:
                    self._client.delete_model_version(name, version.version)
                made = self._client.create_model_version(
                    name, source_uri, run_id, tags={**tags, DIGEST_TAG: model_digest}
                )
                # Whoever registers the same model at this moment keeps the lowest number too.
                first = self._versions(name, model_digest)[0]
                if first.version != str(made.version):
                    self._client.delete_model_version(name, str(made.version))
            first = self._versions(name, model_digest)[0]
            if not first.is_complete:
                self._complete(first, {**tags, DIGEST_TAG: model_digest})
            return self.version(name, first.version)

    def _complete(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        for stale in version.tags.keys() - tags.keys():
            self._client.delete_model_version_tag(version.name, version.version, stale)
        for tag, value in tags.items():
            if version.tags.get(tag) != value:
                _merged(self._client.set_model_version_tag, version.name, version.version, tag, value)
        _merged(self._client.set_model_version_tag, version.name, version.version, COMPLETE_TAG, "true")

    def describe(self, version: ModelVersion, description: str) -> None:
        with answers(self.uri):
            self._client.update_model_version(version.name, version.version, description)

    def show_page(self, version: ModelVersion, page: str) -> None:
        """HTML as an artifact of the version's run, where MLflow's pages show it, instead of an earlier one."""
        with answers(self.uri):
            self._client.log_text(version.run_id, page, f"report/{version.name}.html")

    def find_version(self, name: str, model_digest: str) -> ModelVersion | None:
        """The complete version that holds this model."""
        with answers(self.uri):
            return next((found for found in self._versions(name, model_digest) if found.is_complete), None)

    def version(self, name: str, version: str) -> ModelVersion:
        with answers(self.uri):
            return _told(self._client.get_model_version(name, version))

    def names(self) -> list[str]:
        """All registered models, by name."""
        with answers(self.uri):
            found: list[str] = []
            page = self._client.search_registered_models(max_results=1000)
            while True:
                found += [model.name for model in page]
                if not page.token:
                    return sorted(found)
                page = self._client.search_registered_models(max_results=1000, page_token=page.token)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, oldest first."""
        with answers(self.uri):
            return self._versions(name)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → version; empty where the model does not exist. (A search for versions returns no aliases.)"""
        from mlflow.exceptions import MlflowException

        with answers(self.uri):
            try:
                found = self._client.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
            return {alias: str(version) for alias, version in sorted(found.items())}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with answers(self.uri):
            _merged(self._client.set_registered_model_alias, name, alias, version)

    def delete_alias(self, name: str, alias: str) -> None:
        with answers(self.uri):
            self._client.delete_registered_model_alias(name, alias)

    def resolve(self, model_uri: str) -> ModelVersion:
        """`models:/name/version` or `models:/name@alias`."""
        parsed = urlparse(model_uri)
        name, at, alias = parsed.path.strip("/").partition("@")
        name, _, number = (name, "", "") if at else name.rpartition("/")
        if parsed.scheme != "models" or not name or not (alias or number):
            raise ConfigError(
                f"model {model_uri!r} was found; expected models:/NAME/VERSION or models:/NAME@ALIAS. "
                "`frostline status` lists both."
            )
        aliases, known = self.aliases(name), self.versions(name)
        if not known:
            raise self.unknown(name, model_uri)
        if at and alias not in aliases:
            told = ", ".join(aliases) or "none is"
            raise ConfigError(
                f"{model_uri}: the alias {alias!r} was not found; expected one that is set: {told}. "
                "`frostline status` lists them."
            )
        wanted = aliases[alias] if at else number
        found = next((version for version in known if version.version == wanted), None)
        if found is None:
            told = ", ".join(version.version for version in known)
            raise ConfigError(
                f"{model_uri}: version {wanted!r} was not found; expected one of {told}. `frostline status` lists them."
            )
        return found

    def unknown(self, name: str, place: str) -> ConfigError:
        """What to raise where `name` has no version; `place` is where the name was given."""
        return ConfigError(
            f"{place}: nothing is registered under the name {name!r}; expected one of "
            f"{', '.join(self.names()) or 'none: no model is registered yet'}. `frostline status` lists them."
        )

    def download(self, version: ModelVersion, folder: Path) -> Path:
        """The version's files, copied into `folder`. Nothing in them is executed."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        folder.mkdir(parents=True, exist_ok=True)
        with answers(self.uri):
            uri = self._client.get_model_version_download_uri(version.name, version.version)
            repository = get_artifact_repository(uri, tracking_uri=self.uri, registry_uri=self.uri)
            return Path(repository.download_artifacts("", dst_path=str(folder)))

    def _versions(self, name: str, model_digest: str | None = None) -> list[ModelVersion]:
        wanted = f"name = '{name}'"
        if model_digest:
            wanted += f" and tags.`{DIGEST_TAG}` = '{model_digest}'"
        found: list[ModelVersion] = []
        page = self._client.search_model_versions(wanted, max_results=1000)
        while True:
            found += [_told(version) for version in page]
            if not page.token:
                return sorted(found, key=lambda version: int(version.version))
            page = self._client.search_model_versions(wanted, max_results=1000, page_token=page.token)

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _told(found: Any) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), found.run_id or "", found.source or "", dict(found.tags))


def list_models(tracking_uri: str) -> list[dict[str, Any]]:
    """[{"name", "versions": [{"version", "digest", "aliases"}]}], by name, oldest version first."""
    registry = Registry(tracking_uri)
    found = []
    for name in registry.names():
        by_version: dict[str, list[str]] = {}
        for alias, version in registry.aliases(name).items():
            by_version.setdefault(version, []).append(alias)
        versions = [
            {"version": v.version, "digest": v.tags.get(DIGEST_TAG, ""), "aliases": by_version.get(v.version, [])}
            for v in registry.versions(name)
        ]
        found.append({"name": name, "versions": versions})
    return found
