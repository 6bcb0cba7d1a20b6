"""What up, down, reap and doctor do, shown to a person or as JSON."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from flows.databases import postgres_databases, sqlite_databases
from flows.stack import HOST, Ports, Stack
from infra.errors import PlatformError
from infra.settings import Settings

STYLES = {"ok": "green", "warning": "yellow", "fault": "red"}


def up_command(ports: Ports, postgres: str | None, as_json: bool) -> None:
    settings = Settings()
    terminal = Console(stderr=True, quiet=as_json)
    databases = sqlite_databases(settings) if postgres is None else postgres_databases(postgres)
    stack = Stack(settings)
    running = stack.up(ports, databases, Path.cwd(), lambda told: terminal.print(f"  {told}", highlight=False))
    clients = stack.client_environment(ports)
    if as_json:
        parts = [{**asdict(one), "log": str(one.log)} for one in running]
        print(json.dumps({"parts": parts, "environment": clients}, indent=2))
        return
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "", "address", "pid", "log"):
        table.add_column(name, overflow="fold")
    for one in running:
        table.add_row(one.name, "ran already" if one.was_there else "started", one.address, str(one.pid), str(one.log))
    console.print(table)
    console.print("\nlet commands in a shell use them")
    console.print("  export " + " ".join(f"{key}={value}" for key, value in clients.items()), soft_wrap=True)
    console.print("then")
    console.print(
        "  prefect deployment run 'retrain/scheduled' --param recipe=quickstart --watch\n  frostline down",
        highlight=False,
    )


def down_command(as_json: bool) -> None:
    terminal = Console(stderr=True, quiet=as_json)
    num_stopped = Stack(Settings()).down(lambda told: terminal.print(f"  {told}", highlight=False))
    if as_json:
        print(json.dumps({"num_stopped": num_stopped}))
    else:
        print(f"{num_stopped} processes stopped" if num_stopped else "nothing of `frostline up` runs here")
        named = {name: os.environ.get(name, "") for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
        here = [name for name, address in named.items() if address.startswith(f"http://{HOST}:")]
        if num_stopped and here:
            print(f"this shell names servers on this machine: where they were these, unset {' '.join(here)}")


def reap_command(every: float | None, store: str | None, as_json: bool) -> None:
    from flows.opened import open_workspace
    from flows.reaping import BEAT, Pass, reap, reap_again_and_again
    from infra.progress import Silent

    workspace = open_workspace("laptop", Silent(), store)

    def show(found: Pass) -> None:
        """Raises what kept it from being whole."""
        if as_json:
            told = [{"holder": one.holder.told(), "flow_run": one.flow_run} for one in found.reaped]
            print(json.dumps({"reaped": told}, ensure_ascii=False), flush=True)
        else:
            for one in found.reaped:
                print(f"{_now()} lost: {one.holder.told()}; flow run: {one.flow_run}", flush=True)
        if found.problem is not None:
            raise found.problem

    if every is None:
        found = reap(workspace.store)
        show(found)
        if not found.reaped and not as_json:
            print("nothing was lost")
        return

    def show_and_beat(found: Pass) -> None:
        show(found)
        beat = workspace.settings.var_dir / BEAT
        beat.parent.mkdir(parents=True, exist_ok=True)  # with the store elsewhere, nobody else makes it
        beat.touch()

    reap_again_and_again(
        workspace.store, every, show_and_beat, lambda problem: print(f"{_now()} {problem}", file=sys.stderr, flush=True)
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def doctor_command(profile: str, store: str | None, as_json: bool) -> None:
    from flows.doctor import examine

    findings = []
    console = Console(quiet=as_json)
    for finding in examine(profile, store):
        findings.append(finding)
        console.print(f"[{STYLES[finding.state]}]{finding.state:>7}[/]  [bold]{finding.name}[/]: ", end="")
        console.print(finding.found, soft_wrap=True, highlight=False, markup=False)
        if finding.remedy:
            console.print(f"         → {finding.remedy}", soft_wrap=True, highlight=False, markup=False)
    if as_json:
        print(json.dumps({"findings": [finding.model_dump() for finding in findings]}, indent=2))
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(PlatformError.exit_code)
