"""`frostline export --quantize int8`: what it prints."""

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from flows.opened import open_workspace
from flows.quantising import SUFFIX, Quantised, quantise_version
from flows.summary import METRICS
from flows.terminal import Bars
from infra.logs import engines_to, new_log_file
from infra.settings import Settings
from training.against import Difference, differences_between

MAX_LOSS = 0.01
REFUSED = 1
"""Exit code where the gate keeps the smaller model from being registered."""


def quantise_command(model_uri: str, folder: Path, max_loss: float, store: str | None, as_json: bool) -> None:
    with engines_to(new_log_file(Settings().logs)) as (output, error):
        bars = Bars(Console(file=error))
        workspace = open_workspace("laptop", bars, store)
        with bars.shown():
            found = quantise_version(model_uri, folder, max_loss, workspace)
        differences = differences_between(
            found.original.evaluation, found.evaluation, found.original.rule.confidence, workspace.cache
        )
        if as_json:
            told = _told(found, differences, folder)
            print(json.dumps(told, indent=2, ensure_ascii=False), file=output)
        else:
            _show(Console(file=output), found, differences, folder)
        for warning in found.warnings:
            print(f"warning: {warning}", file=error)
    if found.registered is None:
        raise typer.Exit(REFUSED)


def _told(found: Quantised, differences: dict[str, Difference], folder: Path) -> dict[str, Any]:
    return {
        "original": found.original.version.uri,
        "folder": str(folder),
        "figures": {name: figures.model_dump(mode="json") for name, figures in found.figures.items()},
        "metrics": {
            name: {
                "original": found.original.evaluation.facts["metrics"][name],
                "int8": found.evaluation.facts["metrics"][name],
                "difference": one.value,
                "interval": [one.range.low, one.range.high] if one.range else None,
            }
            for name, one in differences.items()
        },
        "promotion": found.promotion.model_dump(mode="json"),
        "model": found.registered.facts["model"] if found.registered else None,
        "warnings": found.warnings,
    }


def _show(console: Console, found: Quantised, differences: dict[str, Difference], folder: Path) -> None:
    console.print(_table(found, differences))
    verdict = "is not registered"
    if found.registered is not None:
        model = found.registered.facts["model"]
        verdict = f"is {model['uri']} ({', '.join(model['aliases']) or 'no alias'})"
    lines = [f"\nin {folder}", f"{found.original.version.name}{SUFFIX} {verdict}"]
    for line in (*lines, *(f"  - {reason}" for reason in found.promotion.reasons)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(found: Quantised, differences: dict[str, Difference]) -> Table:
    table = Table("", "original", "int8", "change", box=None, header_style="bold", pad_edge=False)
    old, new = found.figures["original"], found.figures["int8"]
    for name, label in (
        ("language_model_bytes", "language model on disk, bytes"),
        ("folder_bytes", "package on disk, bytes"),
        ("memory_bytes", "weights in memory, bytes"),
    ):
        a, b = getattr(old, name), getattr(new, name)
        table.add_row(label, f"{a:,}", f"{b:,}", f"{b / a:.2f} times")
    for size, seconds in old.seconds.items():
        ratio = f"{new.seconds[size] / seconds:.2f} times"
        table.add_row(f"seconds per answer, batch {size}", f"{seconds:.4f}", f"{new.seconds[size]:.4f}", ratio)
    metrics = found.original.evaluation.facts["metrics"], found.evaluation.facts["metrics"]
    for name in (name for name in METRICS if name in differences):
        one = differences[name]
        between = f", {one.range.low:+.4f} to {one.range.high:+.4f}" if one.range else ""
        table.add_row(name, *(f"{found[name]:.4f}" for found in metrics), f"{one.value:+.4f}{between}")
    return table
