"""The person at the terminal: progress bars with rates and time left, tables, one-sentence errors."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from data_prep.statistics import told
from flows.plan import Plan
from flows.planned_memory import PlannedMemory, gigabytes
from flows.summary import RunSummary
from infra.outputs import Manifest

TELL_EVERY_SECONDS = 30
SHOWN_PLACES = 2
SHOWN_BYTES = 50_000_000


class Bars:
    """Progress as rich bars. Where the output is no terminal: a line at the start, at the end and now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._tasks: dict[str, TaskID] = {}
        self._done_before: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with self._bars:
            yield

    def start(self, label: str, total: int, unit: str, done: int = 0) -> None:
        restarted = set(self._tasks)
        if label in self._tasks:
            self._bars.remove_task(self._tasks.pop(label))
        self._tasks[label] = self._bars.add_task(
            label, total=total or None, completed=done, unit=unit, rate="", note=""
        )
        self._done_before[label], self._told_at[label] = done, time.monotonic()
        if done:
            self.console.print(f"  {label}: {done:,} {unit} are there already")
        elif not self.console.is_terminal and label not in restarted:
            self.console.print(f"  {label}: started" + (f", {total:,} {unit}" if total else ""))

    def advance(self, label: str, amount: int = 1, note: str = "") -> None:
        task = self._tasks[label]
        speed = next(t.speed for t in self._bars.tasks if t.id == task)
        rate = f"{speed:,.1f}/s" if speed else ""
        changed = {"note": note} if note else {}
        self._bars.update(task, advance=amount, rate=rate, **changed)  # type: ignore[arg-type]
        if not self.console.is_terminal and time.monotonic() - self._told_at[label] >= TELL_EVERY_SECONDS:
            self._told_at[label] = time.monotonic()
            shown = next(t for t in self._bars.tasks if t.id == task)
            of = f" of {shown.total:,.0f}" if shown.total else ""
            self.console.print(f"  {label}: {shown.completed:,.0f}{of} {shown.fields['unit']} {rate} {note}".rstrip())

    def finish(self, label: str) -> None:
        task = self._tasks.pop(label)
        shown = next(t for t in self._bars.tasks if t.id == task)
        seconds = shown.elapsed or 0.0
        told = f"{shown.completed - self._done_before[label]:,.0f} {shown.fields['unit']}"
        self.console.print(
            f"  {label}: {told} in {seconds:.1f} s" + (f" ({shown.fields['note']})" if shown.fields["note"] else "")
        )
        self._bars.remove_task(task)


def plan_table(plan: Plan) -> Table:
    table = Table("step", "action", "why", box=None, header_style="bold", pad_edge=False)
    colours = {"run": "yellow", "reuse": "green", "run_if_changed": "cyan"}
    for step in plan.steps:
        table.add_row(step.name, f"[{colours[step.action]}]{step.action}", step.reason)
    return table


def show_memory(console: Console, memory: PlannedMemory) -> None:
    """The estimate for the profile's stage by item, and the other stages beside it."""
    if memory.unknown:
        console.print(f"\nmemory of the training: {memory.unknown}", soft_wrap=True, highlight=False)
        return
    console.print(
        f"\nmemory of a rank in training, estimated for ZeRO stage {memory.zero_stage} "
        f"(ranks: {memory.num_ranks}, rank 0 takes most)",
        soft_wrap=True,
        highlight=False,
    )
    chosen = memory.by_stage[memory.zero_stage]
    for place, items in (("CPU", chosen.cpu), ("GPU", chosen.gpu)):
        if not items:
            continue
        parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in items.items() if size >= SHOWN_BYTES)
        stages = ", ".join(
            f"{each.zero_stage}: {gigabytes(each.cpu_bytes() if place == 'CPU' else each.gpu_bytes)}"
            for each in memory.by_stage
        )
        console.print(f"  {place} {gigabytes(sum(items.values()))}: {parts}", soft_wrap=True, highlight=False)
        console.print(f"  {place} by ZeRO stage: {stages}", soft_wrap=True, highlight=False)
    for warning in memory.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)


def steps_table(summary: RunSummary) -> Table:
    table = Table("step", "", "seconds", "rows", "fingerprint", box=None, header_style="bold", pad_edge=False)
    for step in summary.steps:
        state = "[green]reused" if step.reused else "[yellow]ran"
        table.add_row(step.name, state, f"{step.seconds:.1f}", f"{step.rows:,}", step.fingerprint[:12])
    return table


def metrics_table(summary: RunSummary) -> Table:
    table = Table(
        "metric", "score", "95 % interval", "images swapped", "no image", box=None, header_style="bold", pad_edge=False
    )
    for name, value in summary.metrics.items():
        between = " to ".join(f"{end:.3f}" for end in summary.intervals.get(name, ()))
        controls = [f"{found[name]:.3f}" if name in found else "" for found in (summary.control, summary.blind)]
        table.add_row(name, f"{value:.3f}", between, *controls)
    return table


def data_lines(outputs: Mapping[str, Manifest], reused: Collection[str]) -> list[str]:
    """What became of the rows and images, in words. Of a `reused` step only what there is."""
    lines: list[str] = []
    if (ingest := outputs.get("ingest")) is not None:
        lines.append(_dataset_line(ingest.counts))
        lines += _quarantine_lines(ingest)
    if (featurize := outputs.get("featurize")) is not None:
        counts = featurize.counts
        told_now = f", {counts['encoded']:,} of them encoded now" if "featurize" not in reused else ""
        lines.append(f"features: {counts['rows_out']:,} images{told_now}")
    return lines


def _dataset_line(counts: Mapping[str, int]) -> str:
    told = f"dataset: {counts['rows_out']:,} examples of {counts['images']:,} images"
    if counts["duplicates"]:
        told += f", {counts['duplicates']:,} exact duplicates left out"
    if counts["excluded"]:
        told += f", {counts['excluded']:,} train and val images look like a test image and are not trained on"
    return told


def _quarantine_lines(ingest: Manifest) -> list[str]:
    counts = ingest.counts
    if not counts["quarantined"]:
        return []
    reasons = ingest.facts["statistics"]["quarantined_by_reason"]
    parts = ingest.parts_of("quarantine")
    places = ", ".join(f"ingest/parts/{part.digest}" for part in parts[:SHOWN_PLACES])
    more = f" and {len(parts) - SHOWN_PLACES} more" if len(parts) > SHOWN_PLACES else ""
    lines = [f"{counts['quarantined']:,} of {counts['rows_in']:,} rows quarantined: {told(reasons)}"]
    lines += [f"  rows in {places}{more}"] if parts else []
    if counts["to_try_again"]:
        lines.append(f"  {counts['to_try_again']:,} of them failed for passing reasons; the next run tries them again")
    return lines


def show_summary(
    console: Console, summary: RunSummary, outputs: Mapping[str, Manifest], hints: list[tuple[str, str]]
) -> None:
    console.print()
    console.print(steps_table(summary))
    console.print()
    for line in data_lines(outputs, {step.name for step in summary.steps if step.reused}):
        console.print(line, soft_wrap=True, highlight=False)
    register = outputs.get("register")
    if summary.metrics:
        console.print()
        console.print(metrics_table(summary))
    if summary.model is not None:
        aliases = ", ".join(summary.model.aliases) or "no alias"
        console.print(f"\n[bold]{summary.model.name}[/] version {summary.model.version} ({aliases})")
    for reason in register.facts["promotion"]["reasons"] if register else []:
        console.print(f"  - {reason}", highlight=False, soft_wrap=True)
    for warning in summary.warnings:
        console.print(f"\n[yellow]warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)
    console.print("\n[bold]where to look next")
    for what, where in hints:
        console.print(f"  {what:<11} {where}", soft_wrap=True, highlight=False)
