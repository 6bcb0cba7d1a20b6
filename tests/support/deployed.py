"""Containers of the compose file and of the Kubernetes manifests, in one form, and what can be wrong with them."""

import argparse
import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "infra" / "compose.yaml"
BIN = Path(sys.executable).parent
OURS = "frostline"
PINNED = re.compile(r"[\w./-]+(:[\w.-]*\d[\w.-]*)?@sha256:[0-9a-f]{64}|frostline:\d+\.\d+\.\d+(-cpu|-gpu)?")
NOT_OURS = frozenset({
    # botocore, Ray and libpq read these; PostgreSQL's image the others.
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION",
    "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "RAY_USAGE_STATS_ENABLED", "PGPASSWORD",
    "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE",
    # Python, its libraries, NVIDIA's container toolkit
    "PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "DO_NOT_TRACK",
    "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
})  # fmt: skip


@dataclass(frozen=True)
class Container:
    name: str
    image: str
    commands: tuple[tuple[str, ...], ...] = ()
    """What it runs, health checks included."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """None: from a secret."""

    @property
    def is_ours(self) -> bool:
        return self.image.partition(":")[0] == OURS


def compose_config(*files: Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `docker compose config` makes of them; an AssertionError with its words where it refuses."""
    named = [argument for file in files for argument in ("--file", str(file))]
    done = subprocess.run(
        [str(BIN / "docker-compose"), *named, "config", "--format", "json"],
        env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import json

    return dict(json.loads(done.stdout))


def containers_of_compose(config: Mapping[str, Any]) -> list[Container]:
    found = []
    for name, service in config["services"].items():
        test = service.get("healthcheck", {}).get("test") or []
        health = [("sh", "-c", test[1])] if test[:1] == ["CMD-SHELL"] else [tuple(test[1:])] if len(test) > 1 else []
        commands = [tuple(service["command"])] if service.get("command") else []
        targets = {each["target"].rpartition("/")[2] for each in service.get("secrets", [])}
        read_as_files = {str(value).rpartition("/")[2] for value in service.get("environment", {}).values()}
        secrets = dict.fromkeys(targets - read_as_files)
        environment = {**secrets, **service.get("environment", {})}
        variables = {key: value for key, value in environment.items() if key.isupper()}  # others are files
        found.append(Container(name, service["image"], (*commands, *health), variables))
    return found


def unpinned(containers: Iterable[Container]) -> list[str]:
    return [f"{one.name}: {one.image}" for one in containers if not PINNED.fullmatch(one.image)]


def known_variables() -> frozenset[str]:
    """Of Frostline, Prefect and MLflow, as their own code has them."""
    import mlflow.environment_variables
    from mlflow.cli import cli
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings as PrefectSettings

    from infra.settings import Settings
    from infra.store.s3 import S3Settings
    from infra.webhook import WebhookSettings

    own = {
        f"{model.model_config['env_prefix']}{name.upper()}"
        for model in (Settings, S3Settings, WebhookSettings)
        for name, about in model.model_fields.items()
        if about.validation_alias is None
    }
    mlflow_server = cli.commands["server"]
    of_mlflow = {str(option.envvar) for option in mlflow_server.params if option.envvar}
    of_mlflow |= {name for name in vars(mlflow.environment_variables) if name.startswith("MLFLOW_")}
    return frozenset(own | of_mlflow | set(_get_settings_fields(PrefectSettings)) | NOT_OURS)


def unknown_variables(containers: Iterable[Container]) -> list[str]:
    known = known_variables()
    return [f"{one.name}: {name}" for one in containers for name in one.environment if name not in known]


def literal_secrets(containers: Iterable[Container]) -> list[str]:
    """Variables that hold a secret and are written out."""
    secret = re.compile(r"PASSWORD$|SECRET|TOKEN$|AUTH_STRING|ACCESS_KEY|WEBHOOK_URL")
    found = [
        f"{one.name}: {name}"
        for one in containers
        for name, value in one.environment.items()
        if value is not None and secret.search(name)
    ]
    in_address = re.compile(r"://[^/@\s]*:[^/@\s]*@")
    return found + [
        f"{one.name}: {name} has a password in it"
        for one in containers
        for name, value in one.environment.items()
        if value and in_address.search(value)
    ]


def unknown_commands(containers: Iterable[Container]) -> list[str]:
    """Commands of our own image that Frostline, Prefect, MLflow, Ray or Python would not take."""
    return [
        f"{one.name}: {' '.join(command)}: {problem}"
        for one in containers
        if one.is_ours
        for command in one.commands
        for problem in _problems(command)
    ]


def _problems(words: Sequence[str]) -> Iterator[str]:
    program, *arguments = words
    if program in ("exec",) or program.endswith("/with_secrets.sh"):
        yield from _problems(arguments)
    elif program == "sh":
        for part in re.split(r"&&|\|", arguments[1]):
            yield from _problems(shlex.split(part))
    elif program in ("find", "grep"):
        return
    else:
        try:
            rest = _PARSERS[program](arguments)
        except KeyError:
            yield f"no program {program} is expected in the image"
        except Exception as error:  # each parser has a class of its own
            yield f"{type(error).__name__}: {error}"
        else:
            if rest:
                yield from _problems(rest)


def _click(group: Any, words: Sequence[str]) -> None:
    command = group.get_command(None, words[0])
    if command is None:
        raise ValueError(f"there is no {words[0]}")
    command.make_context(words[0], list(words[1:]))


def _frostline(words: Sequence[str]) -> None:
    from typer.main import get_command

    from flows.cli import app

    _click(get_command(app), words)


def _ray(words: Sequence[str]) -> None:
    from ray.scripts.scripts import cli

    _click(cli, words)


def _mlflow(words: Sequence[str]) -> None:
    from mlflow.cli import cli

    _click(cli, words)


def _prefect(words: Sequence[str]) -> None:
    from prefect.cli._app import _app

    _app.parse_args([word for word in words if word != "--no-prompt"], exit_on_error=False, print_error=False)


def _python(words: Sequence[str]) -> Sequence[str]:
    if words[0] == "-c":
        ast.parse(words[1])
        return ()
    if words[0] != "-m" or importlib.util.find_spec(words[1]) is None:
        raise ValueError(f"no module in {' '.join(words)}")
    parser = argparse.ArgumentParser(exit_on_error=False)  # of infra.drain, which runs another command
    parser.add_argument("--grace", type=float)
    parser.add_argument("--while", dest="condition")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked, unknown = parser.parse_known_args(list(words[2:]))
    return [*unknown, *asked.command]


_PARSERS: Mapping[str, Any] = {
    "frostline": _frostline, "ray": _ray, "mlflow": _mlflow, "prefect": _prefect, "python": _python,
}  # fmt: skip
