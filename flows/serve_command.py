"""`frostline serve`: opens what a server needs, in the order in which faults are cheap."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from flows.opened import open_workspace
from infra.errors import ConfigError
from infra.logs import engines_to, new_log_file
from infra.progress import Silent
from infra.ray import connected
from infra.settings import RayResources
from infra.workspace import Workspace
from infra.yaml_config import parse, set_values
from training.serving.limits import Limits

if TYPE_CHECKING:
    from training.serving.champion import Champion
    from training.serving.server import Door

TOKEN_VARIABLE = "FROSTLINE_SERVE_TOKEN"
MIN_TOKEN_CHARACTERS = 16
VERSIONS_AT_A_TIME = 2
"""The old and the new one, while they change."""


class ReplicaSettings(BaseModel):
    """With how much a version is served. See `training.serving.fleet.Replicas`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    min_replicas: int = Field(default=1, gt=0)
    max_replicas: int = Field(default=1, gt=0)
    threads: int = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    max_batch: int = Field(default=16, gt=0, le=64)
    target_ongoing_requests: float = Field(default=8, gt=0)


class ServeSettings(BaseModel):
    """What `--set` can set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    replicas: ReplicaSettings = ReplicaSettings()
    limits: Limits = Limits()
    poll_seconds: float = Field(default=5, gt=0)
    decoders: int = Field(default=1, gt=0)


@dataclass(frozen=True)
class Listening:
    """Where the server listens, as the command line said."""

    host: str
    port: int
    token_file: Path | None
    index: str | None


def serve_command(
    model_uri: str, listening: Listening, assignments: Sequence[str], profile: str, store: str | None, as_json: bool
) -> None:
    """Returns when the server was stopped and has finished what was begun."""
    from training.serving.champion import Champion
    from training.serving.fleet import Replicas
    from training.serving.server import Address, Door, check_address

    settings = parse_settings(assignments)
    address = Address(listening.host, listening.port, read_token(listening.token_file))
    check_address(address)
    others = [text for text in assignments if text.startswith("profile.")]
    workspace = open_workspace(
        profile, Silent(), store, [text.removeprefix("profile.") for text in others], writable=False
    )
    log = new_log_file(workspace.settings.logs)
    door = Door(address, settings.limits, settings.poll_seconds, settings.decoders)
    with engines_to(log) as (output, error):
        print(f"frostline: loading {model_uri}; engines write to {log}", file=error)

        def ready(url: str) -> None:
            told = {"url": url, "model_uri": model_uri, "pid": os.getpid()}
            print(json.dumps(told) if as_json else f"serving {model_uri} at {url}", file=output, flush=True)

        champion = Champion(model_uri, workspace, Replicas(**settings.replicas.model_dump()), listening.index)
        _serve(champion, door, settings.replicas, workspace, ready)


def parse_settings(assignments: Sequence[str]) -> ServeSettings:
    own = [text for text in assignments if not text.startswith("profile.")]
    found = parse(ServeSettings, set_values({}, own), where="--set")
    if found.replicas.max_replicas < found.replicas.min_replicas:
        raise ConfigError(
            f"--set: replicas.max_replicas is {found.replicas.max_replicas}; expected at least replicas.min_replicas, "
            f"{found.replicas.min_replicas}. Raise it."
        )
    return found


def read_token(file: Path | None) -> str | None:
    """From the file, else from the environment. Raises ConfigError for one that is guessed soon."""
    where = f"--token-file {file}" if file else TOKEN_VARIABLE
    try:
        token = file.read_text().strip() if file else os.environ.get(TOKEN_VARIABLE, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot read ({error}); expected a file with the token.") from error
    if not token and not file:
        return None
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or any(letter.isspace() for letter in token):
        raise ConfigError(
            f"{where}: a token of {len(token)} characters was found; expected at least {MIN_TOKEN_CHARACTERS} ASCII "
            "characters without spaces. Make one with `python -c 'import secrets; print(secrets.token_urlsafe())'`."
        )
    return token


def _serve(
    champion: Champion, door: Door, replicas: ReplicaSettings, workspace: Workspace, ready: Callable[[str], None]
) -> None:
    from training.serving.fleet import stop_serve
    from training.serving.server import bound_socket, serve_until_stopped

    with contextlib.closing(bound_socket(door.address)) as bound:
        champion.searched(champion.resolve())  # before Ray is started: a name that is not there is told at once
        with connected(_room(workspace.profile.ray, replicas), workspace.settings.logs) as started_here:
            try:
                serve_until_stopped(champion, door, bound, ready)
            finally:
                stop_serve(champion.door, started_here)


def _room(ray: RayResources, replicas: ReplicaSettings) -> RayResources:
    """A Ray started here must let two versions run beside each other; the threads then share the cores for a moment."""
    needed = VERSIONS_AT_A_TIME * replicas.max_replicas * replicas.threads + 1
    return ray.model_copy(update={"num_cpus": max(ray.num_cpus or os.cpu_count() or 1, needed)})
