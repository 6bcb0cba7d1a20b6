"""What Prometheus reads, and the dashboard and alerts that ask for it."""

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from storied import four_weeks, put

from flows.metrics import Metrics, serve_metrics
from infra.errors import ConfigError, IntegrityError, PlatformError
from infra.log import append_in
from infra.store import LocalStore
from training.notices import notices

REPOSITORY = Path(__file__).resolve().parents[2]
DASHBOARD = REPOSITORY / "infra" / "grafana" / "frostline.json"
ALERTS = REPOSITORY / "infra" / "prometheus" / "alerts.yaml"
OF_SERVING = {"frostline_request_seconds_bucket", "frostline_requests_total"}
"""Told by `frostline serve`."""
OF_PREFECT = {
    "frostline_flow_runs", "frostline_prefect_answers", "frostline_steps_reused",
    "frostline_steps_reused_accelerator_seconds",
}  # fmt: skip
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    store = LocalStore(tmp_path / "store")
    four_weeks(store)
    return store


def scraped(port: int) -> Values:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in found for one in family.samples}


def test_a_scrape_tells_what_the_store_holds(store: LocalStore) -> None:
    found = scraped(serve_metrics(store, "127.0.0.1", 0))

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("frostline_encodes_done", recipe="weekly") == 2500
    assert value("frostline_encodes_saved", recipe="weekly") == 4500
    assert value("frostline_accelerator_seconds", recipe="weekly", step="train", device="gpu") == 5040
    assert value("frostline_accelerator_seconds_saved", recipe="weekly", step="featurize", device="gpu") == 900
    assert value("frostline_training_images_per_second", recipe="weekly") == 203
    assert value("frostline_champion_score", model="weekly", metric="vqa_accuracy") == 0.58
    assert value("frostline_decisions", model="weekly", kind="rollback") == 1
    assert value("frostline_decisions", model="weekly", kind="approved") == 0
    assert value("frostline_waiting_for_approval", model="weekly") == 1
    assert value("frostline_rows", recipe="weekly", step="ingest") == 12500
    assert value("frostline_store_readable") == 1
    assert not {name for name, _ in found} & OF_PREFECT


def test_more_outputs_make_no_more_series(store: LocalStore) -> None:
    def series() -> set[Any]:
        return {
            (one.name, frozenset(one.labels.items()))
            for family in Metrics(store, 0).collect()
            for one in family.samples
        }

    before = series()
    for day in range(23, 29):
        put(store, "ingest", day, counts={"rows_out": 1, "images": 1})
    assert series() == before


def test_scrapes_within_the_time_that_is_kept_read_the_store_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    objects = store.objects
    monkeypatch.setattr(store, "objects", lambda prefix: listed.append(prefix) or objects(prefix))
    metrics = Metrics(store, fresh_seconds=60)
    metrics.collect()
    once = len(listed)
    metrics.collect()
    assert once and len(listed) == once
    fresh = Metrics(store, fresh_seconds=0)
    fresh.collect()
    fresh.collect()
    assert len(listed) > 2 * once


def test_a_store_that_is_away_is_told_and_the_exporter_goes_on(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics(store, fresh_seconds=0)

    def away(prefix: str) -> Any:
        raise PlatformError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "objects", away)
        (only,) = metrics.collect()
        assert [(one.name, one.value) for one in only.samples] == [("frostline_store_readable", 0)]
    assert len(list(metrics.collect())) > 10


def test_a_notice_of_a_newer_form_is_named_and_the_exporter_goes_on(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    append_in(store, "register/notices/weekly", {"kind": "celebrated", "version": "9", "mood": "good"})
    with pytest.raises(IntegrityError, match="register/notices/weekly: an entry is no notice of this version"):
        notices(store, "weekly")
    (only,) = Metrics(store, fresh_seconds=0).collect()
    assert [(one.name, one.value) for one in only.samples] == [("frostline_store_readable", 0)]
    assert "no notice of this version" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(store: LocalStore) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{other.getsockname()[1]}: .*--port"):
            serve_metrics(store, "127.0.0.1", other.getsockname()[1])


def lost(given: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Fields of the file that Grafana's models do not know, or hold otherwise."""
    if isinstance(given, dict):
        for name, value in given.items():
            if not isinstance(kept, dict) or name not in kept:
                yield f"{where}.{name}"
            else:
                yield from lost(value, kept[name], f"{where}.{name}")
    elif isinstance(given, list):
        for at, value in enumerate(given):
            yield from lost(value, kept[at] if at < len(kept) else None, f"{where}[{at}]")
    elif given != kept:
        yield where


def through_grafana(dashboard: dict[str, Any]) -> list[str]:
    return list(lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))))


def test_grafanas_models_know_every_field_of_the_dashboard() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert through_grafana(dashboard) == []
    dashboard["panels"][0]["gridPosition"] = dashboard["panels"][0].pop("gridPos")
    assert through_grafana(dashboard) == [".panels[0].gridPosition"]


def test_panels_do_not_overlap_and_all_ask_the_chosen_datasource() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    uids = re.findall(r'"uid": "([^"]*)"', json.dumps([dashboard["panels"], dashboard["templating"]]))
    assert set(uids) == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert "datasource" in {one["type"] for one in dashboard["templating"]["list"]}


def told(store: LocalStore) -> set[str]:
    """Names of everything that Frostline tells Prometheus."""
    of_serving = OF_SERVING
    if find_spec("training.serving") is not None:
        families = import_module("training.serving.metrics").Metrics().registry.collect()
        of_serving = {f"{one.name}{end}" for one in families for end in ("", "_total", "_bucket", "_sum", "_count")}
    return {family.name for family in Metrics(store).collect()} | OF_PREFECT | of_serving


def asked_for(text: str) -> set[str]:
    return set(re.findall(r"\bfrostline_\w+", text))


def test_dashboard_and_alerts_ask_only_for_what_is_told(store: LocalStore) -> None:
    for file in (DASHBOARD, ALERTS):
        asked = asked_for(file.read_text())
        assert len(asked) >= 5
        assert asked - told(store) == set()
    assert asked_for('"expr": "frostline_encode_done"') - told(store)


def test_every_alert_has_its_row_in_the_runbook() -> None:
    section = (REPOSITORY / "infra" / "RUNBOOK.md").read_text().split("## Alerts")[1].split("\n## ")[0]
    rows = set(re.findall(r"^\| ([^|]+?) \|", section, re.M))
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert {rule["annotations"]["runbook"] for rule in rules} <= rows
    assert len({rule["alert"] for rule in rules}) == len(rules) == 10
    assert all(rule["expr"] and rule["labels"]["severity"] for rule in rules)
