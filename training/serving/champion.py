"""Which version answers: the one that is up, and the next one when the alias moves."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from infra.addresses import without_password
from infra.errors import FrostlineError, IntegrityError, PlatformError
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from training.candidate import ModelPlace, read_candidate
from training.predictor import fetch_package
from training.serving.faults import Refused
from training.serving.fleet import Replicas, Served, num_replicas, put_up, take_down
from training.serving.loading import VersionPlace
from training.serving.metrics import Metrics
from training.serving.similar import dataset_behind

TRY_AGAIN_SECONDS = 60
"""After a version could not be served. A version with altered bytes is tried again only when the alias moves."""


@dataclass(frozen=True)
class FailedSwap:
    """A version that the alias names and that does not serve, and why."""

    version: str
    reason: str
    at: float
    lasting: bool


class Champion:
    """The version behind a model URI. All methods are called on the door's loop; what takes long runs in threads."""

    def __init__(self, model_uri: str, workspace: Workspace, replicas: Replicas, features: str | None = None) -> None:
        self.model_uri, self.metrics = model_uri, Metrics()
        self._workspace, self._replicas, self._features = workspace, replicas, features
        self._registry = Registry(workspace.settings.mlflow)
        self._serving: Served | None = None
        self.door = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        """With what the names of its applications begin: no other server on the cluster has it."""
        self._num_put_up = 0
        self._given_up = threading.Event()
        self.failed: FailedSwap | None = None
        self.registry_fault: str | None = None
        """Why the alias could not be looked up the last time."""
        self.no_replica: str | None = None
        """Why the version that serves could not answer at the last look."""
        self._is_gone = False
        self.since = 0.0

    @property
    def serving(self) -> Served | None:
        return self._serving

    @contextmanager
    def asked(self) -> Iterator[Served]:
        """The version that answers now; it stays up until the block ends."""
        serving = self._serving
        if serving is None or self._is_gone:
            raise Refused("not_ready", f"{self.model_uri} is not loaded yet; expected a version that is up. Try again.")
        serving.num_asked += 1
        try:
            yield serving
        finally:
            serving.num_asked -= 1

    def resolve(self) -> ModelVersion:
        """The version that the URI names now. Raises ConfigError where there is none."""
        return self._registry.resolve(self.model_uri)

    async def start(self) -> None:
        """Serve the version that the URI names now. Raises what keeps it from that."""
        self._switch(await self._loaded(lambda: self._put_up(self.resolve())))

    async def follow(self, poll_seconds: float) -> None:
        """For ever: look whether the replicas are up and where the URI points, and serve that."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.look()

    async def look(self) -> None:
        """Serve the version that the URI names now, if it is another one or was taken down; the old one answers until
        then."""
        old = self._serving
        if old is not None:
            await self._look_after(old)
        try:
            version = await asyncio.to_thread(self.resolve)
            self._registry_fault_is(None)
        except Exception as error:  # whatever it is, who answers now goes on answering
            self._registry_fault_is(without_password(str(error)))
            self.metrics.registry_faults.inc()
            return
        if old is not None and version.version == old.facts.version and not self._is_gone:
            self._failed_is(None)
            return
        if self.failed and self.failed.version == version.version and not self._is_due(self.failed):
            return
        try:
            new = await self._loaded(lambda: self._put_up(version))
        except Exception as error:  # a full disk, too
            reason = without_password(str(error)) or type(error).__name__
            self._failed_is(FailedSwap(version.version, reason, time.time(), isinstance(error, IntegrityError)))
            self.metrics.swaps.labels("failed").inc()
            _say(f"{version.uri} does not serve: {reason}")
            return
        self._switch(new)
        self.metrics.swaps.labels("done").inc()
        if old is not None:
            await self._drained(old)
            try:
                await asyncio.to_thread(take_down, old.application)
            except Exception as error:  # it costs its memory, and nothing else
                _say(f"{old.application} stays up: {without_password(str(error))}")

    async def _look_after(self, serving: Served) -> None:
        """Serve itself replaces a replica that died; nobody but us an application that another hand took down."""
        try:
            found = await asyncio.to_thread(num_replicas, serving.application)
        except Exception as error:  # a cluster that does not answer
            self._no_replica_is(f"Ray Serve does not answer: {without_password(str(error)) or type(error).__name__}")
            return
        self._is_gone = found is None
        if found is None:
            self._no_replica_is("its replicas were taken down by another hand; they are put up again")
        else:
            self._no_replica_is(None if found else "none of its replicas runs; Ray Serve starts one")

    def _no_replica_is(self, reason: str | None) -> None:
        if reason != self.no_replica:
            _say(f"{self.model_uri} cannot answer: {reason}" if reason else f"{self.model_uri} answers again")
        self.no_replica = reason

    def _registry_fault_is(self, fault: str | None) -> None:
        if fault != self.registry_fault:
            _say(f"{self.model_uri} cannot be looked up: {fault}" if fault else f"{self.model_uri} is found again")
        self.registry_fault = fault

    async def _loaded(self, put_up: Callable[[], Served]) -> Served:
        """In a thread, which ends soon after this is cancelled: a server that is stopped waits for no replica."""
        try:
            return await asyncio.to_thread(put_up)
        except asyncio.CancelledError:
            self._given_up.set()
            raise

    def _is_due(self, failed: FailedSwap) -> bool:
        return not failed.lasting and time.time() - failed.at > TRY_AGAIN_SECONDS

    def _switch(self, new: Served) -> None:
        self._serving, self.since = new, time.time()
        self.no_replica, self._is_gone = None, False
        self._failed_is(None)
        self.metrics.serves(new.facts)
        _say(f"models:/{new.facts.model_name}/{new.facts.version} serves as {new.application}")

    def _failed_is(self, failed: FailedSwap | None) -> None:
        self.failed = failed
        self.metrics.swap_failing.set(0 if failed is None else 1)

    async def _drained(self, old: Served) -> None:
        while old.num_asked:
            await asyncio.sleep(0.05)

    def searched(self, version: ModelVersion) -> tuple[str, str]:
        """Fingerprints of the features to look for similar images in, and of the dataset with their captions. The
        version's own may have been removed since; raises ConfigError where named ones are not there."""
        own = [version.tags.get(f"frostline.{step}_fingerprint", "none") for step in ("featurize", "ingest")]
        if self._features is None:
            return own[0], own[1]
        return self._features, dataset_behind(self._features, self._workspace.store) or own[1]

    def _put_up(self, version: ModelVersion) -> Served:
        """Every file of the version is compared with what was registered and trained; then a replica loads it, and
        compares the frozen models too."""
        workspace, model = self._workspace, ModelPlace(self._workspace.store, self._registry, version.name)
        read_candidate(model, version)
        package = fetch_package(self._registry, version, workspace.cache.folder)
        place = VersionPlace(
            version.name,
            version.version,
            package,
            workspace.settings.mlflow,
            workspace.store.uri,
            workspace.cache.folder,
            *self.searched(version),
        )
        self._num_put_up += 1
        application = f"{self.door}-{version.name}-{version.version}-{self._num_put_up}"
        initial = (num_replicas(self._serving.application) if self._serving else None) or 0
        try:
            return put_up(application, place, self._replicas, initial, self._given_up.is_set)
        except FrostlineError:
            raise
        except Exception as error:  # Ray's own: a lost cluster, a controller that does not answer
            raise PlatformError(
                f"{version.uri}: Ray Serve answered {type(error).__name__}: {str(error).splitlines()[:1]}; expected "
                "a replica. Check the cluster."
            ) from error


def _say(text: str) -> None:
    """To the server's log, and where its disk is full to nobody: a line that is lost stops no server."""
    with suppress(OSError):
        print(text, flush=True)
