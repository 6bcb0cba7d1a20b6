"""What `frostline doctor` looks at, in the order of what needs what."""

import os
from collections.abc import Iterator

from flows.stack import Stack
from infra import examination
from infra.examination import Finding
from infra.settings import Settings, load_profile

START_PREFECT = "Start it with `frostline up`, or unset PREFECT_API_URL: each run then starts its own."
START_MLFLOW = "Start it with `frostline up`, or unset MLFLOW_TRACKING_URI: SQLite under var is used then."


def examine(profile_name: str, store_uri: str | None) -> Iterator[Finding]:
    """Raises ConfigError for a profile that does not exist or is wrong."""
    profile = load_profile(profile_name)
    settings = Settings() if store_uri is None else Settings(store_uri=store_uri)
    yield from examination.packages()
    yield from examination.bytecode()
    yield from examination.processors(profile)
    yield from examination.compiler(profile)
    yield from examination.memory(profile)
    yield from examination.disks(settings)
    yield from examination.store(settings)
    if api := os.environ.get("PREFECT_API_URL"):
        url = api.removesuffix("/").removesuffix("/api")
        yield from examination.server("Prefect", url, "/api/admin/version", "prefect", START_PREFECT)
    else:
        yield Finding(name="Prefect", state="ok", found="PREFECT_API_URL is not set: each run starts its own server")
    if settings.mlflow.startswith("http"):
        yield from examination.server("MLflow", settings.mlflow, "/version", "mlflow", START_MLFLOW)
    else:
        yield Finding(name="MLflow", state="ok", found=f"{settings.mlflow}, without a server")
    try:
        running = Stack(settings).running()
    except OSError as error:
        told, remedy = f"{settings.var_dir}: {error.strerror}", "Make it this user's, or set FROSTLINE_VAR_DIR."
        yield Finding(name="stack", state="fault", found=told, remedy=remedy)
        return
    told = ", ".join(f"{name} (pid {pid})" for name, pid in running.items()) or "nothing of `frostline up` runs here"
    yield Finding(name="stack", state="ok", found=told)
