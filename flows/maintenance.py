"""What the commands that look after a store do: verify, gc, explain, forget."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from flows.opened import open_workspace
from infra.errors import ConfigError
from infra.gc import find_garbage, remove_garbage
from infra.progress import Silent
from infra.repair import Repair, repair_store, to_run
from infra.verify import StoreReport, verify_store

DAMAGED = 4
"""Exit code, that of IntegrityError."""
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def verify_command(store: str | None, repair: bool, as_json: bool) -> None:
    import typer

    workspace = open_workspace("laptop", Silent(), store, writable=repair)
    report = verify_store(workspace.store)
    if not report.num_outputs and not report.damaged:
        raise ConfigError(
            f"{workspace.store.uri}: no output was found; expected a store that something was committed to. "
            "Check --store, or start with `frostline run quickstart`."
        )
    done = repair_store(workspace.store, report, workspace.cache) if repair else None
    if as_json:
        print(json.dumps(_verified(report, done), indent=2))
    else:
        _show_verified(Console(), report, done)
    if report.damaged if done is None else done.beyond_repair:
        raise typer.Exit(DAMAGED)


def _verified(report: StoreReport, done: Repair | None) -> dict[str, object]:
    told: dict[str, object] = {
        "num_outputs": report.num_outputs,
        "num_parts": report.num_parts,
        "damaged": [asdict(damage) for damage in report.damaged],
    }
    if done is not None:
        told |= {
            "put_back": done.put_back,
            "rewritten": done.rewritten,
            "to_make_again": list(to_run(done)),
            "beyond_repair": [damage.file for damage in done.beyond_repair],
        }
    return told


def _show_verified(console: Console, report: StoreReport, done: Repair | None) -> None:
    def tell(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    for damage in report.damaged:
        tell(str(damage))
    tell(f"{report.num_outputs} outputs, {report.num_parts} parts, {len(report.damaged)} damaged")
    if done is None:
        if report.damaged:
            tell("`frostline verify --repair` removes what is damaged, so that the next run makes exactly that again.")
        return
    for key in done.put_back:
        tell(f"put back from this machine's cache: {key}")
    for key in done.rewritten:
        tell(f"entry of a log written again: {key}")
    for damage in done.beyond_repair:
        tell(f"cannot be made again, restore it from a backup: {damage.file}")
    lines = list(to_run(done))
    for line in lines:
        tell(f"to be made again: {line}")
    if lines:
        tell("Run these recipes: `frostline run RECIPE` makes what is missing and reuses everything else.")


def gc_command(store: str | None, grace: str, delete: bool, as_json: bool) -> None:
    workspace = open_workspace("laptop", Silent(), store, writable=delete)
    cache_dir = workspace.cache.folder
    garbage = find_garbage(workspace.store, cache_dir, seconds_of(grace))
    if delete:
        garbage = remove_garbage(workspace.store, cache_dir, garbage)
    kinds = {one.kind: [found.object for found in garbage if found.kind == one.kind] for one in garbage}
    if as_json:
        told = {kind: [asdict(found) for found in objects] for kind, objects in kinds.items()}
        print(json.dumps({"store": workspace.store.uri, "grace": grace, "deleted": delete, "garbage": told}, indent=2))
        return
    table = Table("what", "objects", "bytes", box=None, header_style="bold", pad_edge=False)
    for kind, objects in {**kinds, "all": [one.object for one in garbage]}.items():
        table.add_row(kind, f"{len(objects):,}", f"{sum(found.size_bytes for found in objects):,}")
    console = Console()
    console.print(f"store {workspace.store.uri}, older than {grace}", highlight=False, soft_wrap=True)
    console.print(table)
    console.print("removed" if delete else "nothing was removed: `frostline gc --delete` does")


def seconds_of(duration: str) -> float:
    """`7d`, `12h`, `30m` or `0s` in seconds."""
    number, unit = duration[:-1], duration[-1:]
    if unit not in SECONDS_OF or not number.isdigit():
        raise ConfigError(
            f"--grace {duration!r} is no duration; expected a whole number and a unit, such as 7d or 12h."
        )
    return int(number) * SECONDS_OF[unit]


def explain_command(output: str, store: str | None, as_json: bool) -> None:
    from flows.explain import explain, show_explanation

    workspace = open_workspace("laptop", Silent(), store, writable=False)
    found = explain(workspace.store, output)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        show_explanation(Console(), found)


def forget_command(images: Sequence[str], store: str | None, as_json: bool) -> None:
    from flows.forget import forget

    found = forget(images, open_workspace("laptop", Silent(), store))
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    for what in ("datasets", "features", "evaluations", "reports"):
        for name in getattr(found, what):
            print(f"{'written again' if what in ('features', 'reports') else 'taken back'}: {name}")
    print(f"{len(found.image_ids)} images forgotten, {found.num_parts_removed} parts removed")
    print("Run your recipes again: training starts from the datasets without them.")
