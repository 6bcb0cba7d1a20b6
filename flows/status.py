"""`frostline status`: what is in the store, and what serves."""

from typing import Any

from rich.console import Console
from rich.table import Table

from flows.claiming import at_work
from infra.errors import IntegrityError
from infra.verify import manifests
from infra.workspace import Workspace


def read_status(workspace: Workspace) -> dict[str, Any]:
    """{"store", "outputs": [...], "models": [...], "at_work": [...]}. Reads manifests and MLflow; starts nothing."""
    outputs: list[dict[str, Any]] = []
    for key, manifest in manifests(workspace.store):
        if isinstance(manifest, IntegrityError):
            outputs.append({"step": key.split("/")[0], "output": key, "damaged": str(manifest)})
            continue
        outputs.append(
            {
                "step": manifest.step,
                "name": manifest.name,
                "fingerprint": manifest.fingerprint,
                "rows": manifest.num_rows,
                "seconds": manifest.record.seconds,
                "created_at": manifest.record.created_at,
            }
        )
    outputs.sort(key=lambda output: str(output.get("created_at", "")))
    models, working = _models(workspace), at_work(workspace.store)
    return {"store": workspace.store.uri, "outputs": outputs, "models": models, "at_work": working}


def _models(workspace: Workspace) -> list[dict[str, Any]]:
    from infra.tracking.server import sqlite_path

    uri = workspace.settings.mlflow
    if uri.startswith("sqlite:") and not sqlite_path(uri).exists():
        return []  # asking would create it
    from infra import tracking

    return tracking.list_models(uri)


def show_status(console: Console, found: dict[str, Any]) -> None:
    table = Table(
        "step", "recipe", "made", "seconds", "rows", "fingerprint", box=None, header_style="bold", pad_edge=False
    )
    for output in found["outputs"]:
        if "damaged" in output:
            table.add_row(output["step"], "", "[red]damaged", "", "", output["output"])
            continue
        table.add_row(
            output["step"],
            output["name"],
            output["created_at"],
            f"{output['seconds']:.1f}",
            f"{output['rows']:,}",
            output["fingerprint"][:12],
        )
    console.print(f"store {found['store']}", highlight=False)
    console.print(table if found["outputs"] else "no outputs yet: start with `frostline run quickstart`")
    for model in found["models"]:
        console.print(f"\n[bold]{model['name']}")
        for version in model["versions"]:
            aliases = ", ".join(version["aliases"])
            console.print(f"  version {version['version']}  {version['digest'][:12]}  {aliases}", highlight=False)
    for claim in found["at_work"]:
        told = f"\nat work: {claim['holder']}, heard of at {claim['heard_at']} (claim {claim['claim']})"
        console.print(told, soft_wrap=True, highlight=False, markup=False)
