"""What a run says at its end: one JSON object, or one short table."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.outputs import Manifest
from infra.workspace import Workspace
from training.report import REPORT

METRICS = (
    "vqa_accuracy", "accuracy", "f1_macro", "caption_exact_match", "bleu_4", "rouge_l", "cider_d",
    "hard_negative_accuracy",
    "perplexity", "neg_mse", "mse", "pearson", "spearman", "text_to_image_recall_at_1", "text_to_image_recall_at_5",
    "image_to_text_recall_at_1", "image_to_text_recall_at_5",
)  # fmt: skip
"""What a run shows; the report has every metric."""


class StepResult(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    reused: bool
    seconds: float
    rows: int
    fingerprint: str
    output_uri: str


class RegisteredModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: str
    aliases: list[str]
    uri: str
    digest: str


class RunSummary(BaseModel):
    """The contract of `frostline run --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: list[StepResult]
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    """Low and high ends, of the metrics that are means over examples."""
    control: dict[str, float] = {}
    """With the images swapped."""
    blind: dict[str, float] = {}
    """With the mean prefix in place of every image's."""
    model: RegisteredModel | None = None
    report_uri: str | None = None
    warnings: list[str] = []
    """What went wrong and undoes nothing."""


def step_result(manifest: Manifest, reused: bool, started: float, workspace: Workspace) -> StepResult:
    return StepResult(
        name=manifest.step,
        reused=reused,
        seconds=round(time.monotonic() - started, 3),
        rows=manifest.num_rows,
        fingerprint=manifest.fingerprint,
        output_uri=f"{workspace.store.uri}/{manifest.step}/{manifest.fingerprint}",
    )


def summarise(steps: list[StepResult], outputs: dict[str, Manifest], workspace: Workspace) -> RunSummary:
    found: dict[str, Any] = {"steps": steps}
    if "evaluate" in outputs:
        facts = outputs["evaluate"].facts
        found |= {name: _in_order(facts[name]) for name in ("metrics", "control", "blind")} | {
            "intervals": facts["intervals"]
        }
        found["report_uri"] = report_uri(newest_report(outputs), workspace)
    if "register" in outputs:
        found["model"] = _registered(outputs["register"], workspace)
    return RunSummary.model_validate(found)


def newest_report(outputs: Mapping[str, Manifest]) -> Manifest:
    """The output that holds the report: `register` where it met a champion, else `evaluate`."""
    register = outputs.get("register")
    return register if register is not None and register.parts_of("report") else outputs["evaluate"]


def report_uri(output: Manifest, workspace: Workspace) -> str:
    """The report as a page that opens: a file on this machine, or the object in a store that others see too."""
    if workspace.store.uri.startswith("file:"):
        return report_path(output, workspace).as_uri()
    part = next(part for part in output.parts if part.name == REPORT)
    return f"{workspace.store.uri}/{output.step}/parts/{part.digest}"


def report_path(output: Manifest, workspace: Workspace) -> Path:
    """The report of an output as a verified local file."""
    return workspace.cache.folder_of(output, "report") / "report.html"


def _registered(register: Manifest, workspace: Workspace) -> RegisteredModel:
    """As registered; whether it is champion is what the ledger says now, not what it said then."""
    from training.ledger import head

    model = RegisteredModel.model_validate(register.facts["model"])
    now = head(workspace.store, model.name)
    serves = ["champion"] if now is not None and now.model_digest == model.digest else []
    others = [alias for alias in model.aliases if alias != "champion"]
    return model.model_copy(update={"aliases": serves + others})


def _in_order(values: dict[str, float]) -> dict[str, float]:
    return {name: values[name] for name in METRICS if name in values}
