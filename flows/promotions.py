"""What the commands about who serves do: promote, rollback, approve and refuse; and history, compare and export, which
only read."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.table import Column, Table

from flows.opened import open_workspace
from flows.telling import tell_changes
from infra.errors import IntegrityError
from infra.logs import engines_to, new_log_file
from infra.progress import Silent
from infra.workspace import Workspace
from training.approving import approve, refuse
from training.archive import Restoration, restore
from training.candidate import ModelPlace
from training.champion import differences
from training.comparison import Comparison, compare
from training.ledger import LedgerEntry, history
from training.promoting import Change, promote, rollback

TOLD = {
    "promotion": "promoted by the gate",
    "approved": "approved by a person",
    "promoted_by_hand": "promoted by hand",
    "rollback": "rolled back to",
    "alias_moved_by_hand": "alias moved by hand in MLflow",
}


def promote_command(
    model: str, version: str, reason: str | None, force: bool, store: str | None, as_json: bool
) -> None:
    _change_command(model, store, as_json, lambda place: promote(place, version, reason, force))


def rollback_command(model: str, reason: str | None, store: str | None, as_json: bool) -> None:
    _change_command(model, store, as_json, lambda place: rollback(place, reason))


def approve_command(model: str, version: str, reason: str | None, store: str | None, as_json: bool) -> None:
    _change_command(model, store, as_json, lambda place: approve(place, version, reason))


def refuse_command(model: str, version: str, reason: str | None, store: str | None, as_json: bool) -> None:
    with _opened(model, store) as (place, _, output, error):
        told = _refused(place, version, reason)
        if as_json:
            print(json.dumps(told, indent=2, ensure_ascii=False), file=output)
            return
        done = "is refused" if told["changed"] else "was refused already; nothing changed"
        _say(Console(file=output), f"{model}: version {told['version']} {done}")
        for warning in told["warnings"]:
            _warn(warning, error)


def restore_command(model: str, store: str | None, as_json: bool) -> None:
    with _opened(model, store) as (place, workspace, output, error):
        found = restore(place, workspace.cache)
        _show_restored(model, found, place.registry.aliases(model), output, as_json)
        for fault in found.faults:
            print(f"not restored: {fault}", file=error)
    if found.faults:
        raise typer.Exit(IntegrityError.exit_code)


def _show_restored(model: str, found: Restoration, aliases: dict[str, str], output: TextIO, as_json: bool) -> None:
    if as_json:
        versions = [{"version": one.version.version, "was_there": one.was_there} for one in found.versions]
        told = {"model": model, "versions": versions, "faults": found.faults, "aliases": aliases}
        print(json.dumps(told, indent=2, ensure_ascii=False), file=output)
        return
    console = Console(file=output)
    table = Table("version", "", box=None, header_style="bold", pad_edge=False)
    for one in found.versions:
        table.add_row(one.version.version, "was there" if one.was_there else "registered again")
    console.print(table)
    _say(console, f"\naliases: {', '.join(f'{alias} → {version}' for alias, version in aliases.items()) or 'none'}")


def history_command(model: str, store: str | None, as_json: bool) -> None:
    with _opened(model, store, writable=False) as (place, _, output, error):
        problem = differences(place)
        entries = history(place.store, model)
        if not entries and not place.registry.versions(model):
            raise place.registry.unknown(model, "history")
        aliases = place.registry.aliases(model)
        if as_json:
            told = {
                "model": model,
                "aliases": aliases,
                "entries": [_told(entry) for entry in entries],
                "warnings": [problem] if problem else [],
            }
            print(json.dumps(told, indent=2, ensure_ascii=False), file=output)
            return
        _warn(problem, error)
        console = Console(file=output)
        if not entries:
            console.print(f"{model}: nothing was ever promoted in {place.store.uri}", soft_wrap=True, highlight=False)
            return
        _show_entries(console, entries)
        _say(console, f"\naliases: {', '.join(f'{alias} → {version}' for alias, version in aliases.items())}")


def compare_command(model: str, a: str, b: str, store: str | None, as_json: bool) -> None:
    with _opened(model, store, writable=False) as (place, _, output, error):
        _warn(differences(place), error)
        found = compare(place, a, b)
        if as_json:
            print(found.model_dump_json(indent=2), file=output)
        else:
            _show_comparison(Console(file=output), found)


def export_command(model_uri: str, folder: Path, store: str | None, as_json: bool) -> None:
    from training.export import export

    with _opened(model_uri, store, writable=False) as (place, workspace, output, _):
        version = place.registry.resolve(model_uri)
        files = export(place.registry, version, workspace.cache, folder)
        if as_json:
            told = {"uri": version.uri, "folder": str(folder), "files": [str(file) for file in files]}
            print(json.dumps(told, indent=2), file=output)
            return
        console = Console(file=output)
        table = Table("file", "bytes", box=None, header_style="bold", pad_edge=False)
        for file in files:
            table.add_row(str(file.relative_to(folder)), f"{file.stat().st_size:,}")
        console.print(table)
        _say(console, f"\n{version.uri} is in {folder}; README.md there shows how it is loaded")


def change_champion(model: str, store: str | None, change: Callable[[ModelPlace], Change]) -> dict[str, Any]:
    """For flows: the object of `frostline promote --json` and `frostline rollback --json`."""
    from infra.tracking import Registry

    workspace = open_workspace("laptop", Silent(), store)
    place = ModelPlace(workspace.store, Registry(workspace.settings.mlflow), model)
    return _changed(place, change(place), tell_changes(workspace.store, model))


def refuse_version(model: str, version: str, reason: str | None, store: str | None) -> dict[str, Any]:
    """For flows: the object of `frostline refuse --json`."""
    from infra.tracking import Registry

    workspace = open_workspace("laptop", Silent(), store)
    return _refused(ModelPlace(workspace.store, Registry(workspace.settings.mlflow), model), version, reason)


def _refused(place: ModelPlace, version: str, reason: str | None) -> dict[str, Any]:
    made = refuse(place, version, reason)
    problem = tell_changes(place.store, place.model_name)
    return {
        "model": place.model_name,
        "changed": made.changed,
        "version": made.version,
        "verdict": made.verdict.model_dump(mode="json"),
        "aliases": place.registry.aliases(place.model_name),
        "warnings": [problem] if problem else [],
    }


def _change_command(model: str, store: str | None, as_json: bool, change: Callable[[ModelPlace], Change]) -> None:
    with _opened(model, store) as (place, _, output, error):
        made = change(place)
        problem = tell_changes(place.store, model)
        if as_json:
            print(json.dumps(_changed(place, made, problem), indent=2, ensure_ascii=False), file=output)
            return
        console = Console(file=output)
        _show_entries(console, [made.entry])
        done = "is champion now" if made.changed else "is the champion already; nothing changed"
        _say(console, f"\n{model}: version {made.entry.version} {done}")
        _warn(problem, error)
        former = made.entry.previous_version  # after a rollback there may be no other to go back to
        back = f"promote {model} {former}" if made.entry.kind == "rollback" and former else f"rollback {model}"
        _say(console, f"back: frostline {back}   all changes: frostline history {model}")


def _warn(problem: str | None, error: TextIO) -> None:
    if problem:
        print(f"warning: {problem}", file=error)


@contextmanager
def _opened(
    model: str, store: str | None, writable: bool = True
) -> Iterator[tuple[ModelPlace, Workspace, TextIO, TextIO]]:
    """Where the model is, and (output, error) that reach the person: what MLflow says goes to the log."""
    from infra.tracking import Registry

    workspace = open_workspace("laptop", Silent(), store, writable=writable)
    with engines_to(new_log_file(workspace.settings.logs)) as (output, error):
        yield ModelPlace(workspace.store, Registry(workspace.settings.mlflow), model), workspace, output, error


def _changed(place: ModelPlace, made: Change, problem: str | None) -> dict[str, Any]:
    return {
        "model": place.model_name,
        "changed": made.changed,
        "entry": _told(made.entry),
        "aliases": place.registry.aliases(place.model_name),
        "warnings": [problem] if problem else [],
    }


def _told(entry: LedgerEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude={"token"})


def _show_entries(console: Console, entries: list[LedgerEntry]) -> None:
    when = Column("when", no_wrap=True)
    table = Table("", when, "what", "version", "over", "why", box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        over = entry.previous_version or "none"
        why = "\n".join(entry.reasons if len(entry.reasons) == 1 else [f"- {reason}" for reason in entry.reasons])
        table.add_row(str(entry.number), entry.decided_at, TOLD[entry.kind], entry.version, over, why)
    console.print(table, highlight=False, markup=False)


def _show_comparison(console: Console, found: Comparison) -> None:
    a, b = found.a, found.b
    table = Table(
        "metric", f"version {a.version}", f"version {b.version}", "difference",
        box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for name in sorted(a.metrics.keys() | b.metrics.keys()):
        cells = [f"{scored.metrics[name]:.4f}" if name in scored.metrics else "" for scored in (a, b)]
        table.add_row(name, *cells, f"{found.differences[name]:+.4f}" if name in found.differences else "")
    console.print(table)
    if found.scored_alike:
        _say(console, f"\non the same test rows ({a.test_digest[:12]}…), scored alike")
    else:
        rows = "other test rows" if a.test_digest != b.test_digest else "the same test rows, but asked otherwise"
        _say(
            console, f"\nNot comparable: they were evaluated on {rows}. Run both recipes on one dataset, then compare."
        )


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
