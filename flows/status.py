"""`frostline status`: what is in the store, and what serves."""

from typing import Any

from rich.console import Console
from rich.table import Table

from flows.storytelling import Told, tell
from infra.workspace import Workspace
from training.made import OutputReader

NEWEST = 3


def read_status(workspace: Workspace) -> dict[str, Any]:
    """{"store", "outputs": [...], "models": [...], "at_work": [...], "story": {...}}. Reads the store and MLflow, and
    Prefect where PREFECT_API_URL names it; starts nothing."""
    told, made = tell(OutputReader(workspace.store))
    outputs: list[dict[str, Any]] = [
        {"step": key.split("/")[0], "output": key, "damaged": "not a manifest"} for key in told.story.damaged
    ]
    outputs += [
        {
            "step": one.step,
            "name": one.recipe,
            "fingerprint": one.fingerprint,
            "rows": one.rows,
            "seconds": one.seconds,
            "created_at": one.made_at,
        }
        for one in made
    ]
    return {
        "store": workspace.store.uri,
        "outputs": outputs,
        "models": _models(workspace),
        "at_work": told.at_work,
        "story": in_short(told),
    }


def in_short(told: Told) -> dict[str, Any]:
    """What one screen has room for."""
    models = told.story.models
    newest = {point.model: point for point in models.quality if point.serves}
    failures = told.prefect.failures if told.prefect else []
    return {
        "champions": [
            {"model": model, "version": version, "quality": newest[model].model_dump() if model in newest else None}
            for model, version in models.champions.items()
        ],
        "images_encoded": told.encoded,
        "encodes_saved": told.encodes_saved,
        "accelerator_seconds": round(told.accelerator_seconds, 3),
        "accelerator_seconds_saved": round(told.accelerator_seconds_saved, 3),
        "waiting": [one.model_dump() for one in models.waiting],
        "changes": [change.model_dump() for change in reversed(models.changes[-NEWEST:])],
        "failures": [failure.model_dump() for failure in failures[:NEWEST]],
        "prefect": told.prefect_problem or ("asked" if told.prefect else "not asked: PREFECT_API_URL is not set"),
    }


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
    if found["outputs"]:
        _show_story(console, found["story"])


def _show_story(console: Console, story: dict[str, Any]) -> None:
    def show(told: str) -> None:
        console.print(told, soft_wrap=True, highlight=False, markup=False)

    show("")
    for champion in story["champions"]:
        quality = champion["quality"]
        show(
            f"champion: {champion['model']} version {champion['version']}" + (f", {_score(quality)}" if quality else "")
        )
    show(f"images encoded {story['images_encoded']:,}, encodes saved {story['encodes_saved']:,}")
    spent, saved = story["accelerator_seconds"], story["accelerator_seconds_saved"]
    show(f"accelerator seconds spent {spent:,.0f}, saved {saved:,.0f} (Prefect: {story['prefect']})")
    for one in story["waiting"]:
        show(f"waits for approval: {one['model']} version {one['version']}, since {one['since']}")
    for change in story["changes"]:
        show(f"{change['at']} {change['kind'].replace('_', ' ')}: {change['model']} version {change['version']}")
    for failure in story["failures"]:
        show(f"{failure['at']} {failure['state'].lower()}: {failure['flow_run']}: {failure['message']}")


def _score(quality: dict[str, Any]) -> str:
    told = f"{quality['metric']} {quality['score']:.3f}"
    return told if quality["low"] is None else f"{told} (95 %: {quality['low']:.3f} to {quality['high']:.3f})"
