"""infra/prometheus/alerts.yaml, asked of series by Prometheus' own `promtool`."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import REPOSITORY

ALERTS = REPOSITORY / "infra" / "prometheus" / "alerts.yaml"
READABLE, ANSWERS = "frostline_store_readable", "frostline_prefect_answers"
REFUSED = 'frostline_decisions{kind="refused_by_gate",model="%s"}'
CRASHED = 'frostline_flow_runs{flow="%s",state="Crashed"}'
NEW_CRASHES = 'delta(frostline_flow_runs{state="Crashed"}[15m])'
SERVED = 'frostline_requests_total{route="/v1/caption",status="%s"}'
Labels = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A value each minute (`_`: none; `1x9`: ten of them), and the series that an alert names at a minute."""

    behaviour: str
    alert: str
    series: dict[str, str]
    fires: dict[int, list[Labels]]


def refused(model: str) -> Labels:
    return {"kind": "refused_by_gate", "model": model}


def crashed(flow: str) -> Labels:
    return {"flow": flow, "state": "Crashed"}


FIRST_REFUSAL = Case(
    "the first refusal of a model", "FrostlineCandidateRefused",
    {READABLE: "1x60", REFUSED % "birds": "_x19 1x40"}, {15: [], 25: [refused("birds")], 45: []},
)  # fmt: skip
FIRST_CRASH = Case(
    "the first run of a flow crashes", "FrostlineFlowRunCrashed",
    {ANSWERS: "1x60", CRASHED % "watch": "_x19 1x40", CRASHED % "retrain": "0x60"},
    {15: [], 25: [crashed("watch")], 45: []},
)  # fmt: skip
NEW_PROMETHEUS = Case(
    "a new Prometheus meets old refusals", "FrostlineCandidateRefused",
    {READABLE: "1x60", REFUSED % "birds": "3x60"}, {1: [], 10: [], 20: []},
)  # fmt: skip
STORE_WAS_AWAY = Case(
    "the store comes back with old refusals", "FrostlineCandidateRefused",
    {READABLE: "1x9 0x30 1x40", REFUSED % "birds": "3x9 _x30 3x40"}, {42: [], 50: [], 60: []},
)  # fmt: skip
PREFECT_WAS_AWAY = Case(
    "Prefect comes back with old crashes", "FrostlineFlowRunCrashed",
    {ANSWERS: "1x9 0x30 1x40", CRASHED % "retrain": "3x9 _x30 3x40"}, {42: [], 50: [], 60: []},
)  # fmt: skip
FORGOTTEN_CRASH = Case(
    "one flow crashes while another's crash falls out of the newest runs", "FrostlineFlowRunCrashed",
    {ANSWERS: "1x60", CRASHED % "ingest": "5x19 4x40", CRASHED % "retrain": "0x19 1x40"},
    {15: [], 25: [crashed("retrain")], 45: []},
)  # fmt: skip
CASES = [
    FIRST_REFUSAL, FIRST_CRASH, NEW_PROMETHEUS, STORE_WAS_AWAY, PREFECT_WAS_AWAY, FORGOTTEN_CRASH,
    Case("a later refusal", "FrostlineCandidateRefused",
         {READABLE: "1x60", REFUSED % "birds": "2x19 3x40", REFUSED % "fish": "1x60"},
         {15: [], 25: [refused("birds")], 45: []}),
    Case("the store cannot be read", "FrostlineStoreNotReadable", {READABLE: "1x9 0x20"}, {9: [], 12: [], 16: [{}]}),
    Case("the exporter is away", "FrostlineStoreNotReadable", {READABLE: "1x9 _x30"}, {9: [], 25: [{}]}),
    Case("Prefect is away", "FrostlinePrefectAway", {ANSWERS: "1x9 0x20"}, {9: [], 12: [], 16: [{}]}),
    Case("a rollback", "FrostlineRolledBack",
         {'frostline_decisions{kind="rollback",model="birds"}': "0x19 1x40",
          'frostline_decisions{kind="promotion",model="birds"}': "2x19 3x40"},
         {15: [], 25: [{"kind": "rollback", "model": "birds"}], 45: []}),
    Case("a model waits for more than a day", "FrostlineApprovalWaits",
         {'frostline_waiting_for_approval{model="birds"}': "0x9 1x1600",
          'frostline_waiting_for_approval{model="fish"}': "0x1610"},
         {1000: [], 1460: [{"model": "birds"}]}),
    Case("more rows cannot be used", "FrostlineQuarantineGrows",
         {'frostline_quarantined_rows{recipe="birds"}': "4x19 9x60",
          'frostline_quarantined_rows{recipe="fish"}': "4x80"},
         {15: [], 25: [{"recipe": "birds"}]}),
    Case("a manifest is damaged", "FrostlineDamagedOutput",
         {"frostline_damaged_outputs": "0x9 1x9"}, {9: [], 12: [{}]}),
    Case("a server cannot load what its alias names", "FrostlineSwapFails",
         {'frostline_swap_failing{instance="one"}': "0x40", 'frostline_swap_failing{instance="two"}': "0x9 1x30"},
         {9: [], 12: [], 16: [{}]}),
    Case("two of a hundred requests end with a 5xx", "FrostlineServingFails",
         {SERVED % 200: "0+98x60", SERVED % 503: "0x20 2+2x39"}, {15: [], 35: [{}]}),
    Case("one of two hundred requests ends with a 5xx", "FrostlineServingFails",
         {SERVED % 200: "0+199x60", SERVED % 503: "0+1x60"}, {35: []}),
]  # fmt: skip


def promtool(*arguments: str) -> str:
    """What it complains of."""
    path = shutil.which("promtool")
    assert path, "no promtool was found on PATH; expected one. Install it: apt-get update && apt-get install prometheus"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def complaints(case: Case, rules: str, folder: Path) -> str:
    """Of this case, by these rules; annotations, which every one of a rule has, are left out."""
    content: Any = yaml.safe_load(rules)
    by_name = {rule["alert"]: rule for group in content["groups"] for rule in group["rules"]}
    for rule in by_name.values():
        del rule["annotations"]
    severity = by_name[case.alert]["labels"]
    asked = [
        {
            "alertname": case.alert,
            "eval_time": f"{minute}m",
            "exp_alerts": [{"exp_labels": one | severity} for one in found],
        }
        for minute, found in case.fires.items()
    ]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": asked}]
    (folder / "alerts.yaml").write_text(yaml.safe_dump(content))
    (folder / "case.yaml").write_text(yaml.safe_dump({"rule_files": ["alerts.yaml"], "tests": tests}))
    return promtool("test", "rules", str(folder / "case.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.behaviour)
def test_an_alert_fires_where_it_should_and_nowhere_else(case: Case, tmp_path: Path) -> None:
    assert complaints(case, ALERTS.read_text(), tmp_path) == ""


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert {case.alert for case in CASES if any(case.fires.values())} == {rule["alert"] for rule in rules}


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        (FIRST_REFUSAL, "frostline_decisions offset 15m", "frostline_decisions"),
        (FIRST_CRASH, "frostline_flow_runs offset 15m", "frostline_flow_runs"),
        (NEW_PROMETHEUS, "frostline_store_readable offset 15m == 1", "frostline_store_readable == 1"),
        (STORE_WAS_AWAY, "frostline_store_readable offset 15m == 1", "frostline_store_readable offset 15m"),
        (PREFECT_WAS_AWAY, "frostline_prefect_answers offset 15m == 1", "frostline_prefect_answers offset 15m"),
        (FORGOTTEN_CRASH, NEW_CRASHES, f"sum({NEW_CRASHES})"),
    ],
    ids=lambda one: one.behaviour if isinstance(one, Case) else "",
)  # fmt: skip
def test_each_part_of_an_expression_is_needed_by_a_case(case: Case, old: str, new: str, tmp_path: Path) -> None:
    text = ALERTS.read_text()
    assert text.count(old) == 1
    assert "FAILED" in complaints(case, text.replace(old, new), tmp_path)


def test_prometheus_takes_the_file() -> None:
    assert promtool("check", "rules", str(ALERTS)) == ""


def test_a_misspelt_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text().replace("delta(", "difference("))
    assert "difference" in promtool("check", "rules", str(tmp_path / "alerts.yaml"))
