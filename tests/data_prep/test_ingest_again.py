"""What failed for passing reasons is tried at the next run, and nothing else is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from web import Request, Web, web

from data_prep.ingest import ingest_request
from data_prep.ingest_config import IngestConfig
from infra.errors import DataError
from infra.outputs import Manifest
from infra.workspace import Workspace

Ingested = Callable[..., Manifest]
LIMIT = {"max_quarantined_fraction": 1.0}


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as found:
        yield found


@pytest.fixture
def source(server: Web, tmp_path: Path, make_picture: Callable[[int], bytes]) -> dict[str, Any]:
    """Three pictures, of which one is served at the second ingest, and one that is gone."""

    def picture(number: int) -> Callable[[Request], None]:
        return lambda request: request.reply(make_picture(number))

    urls = [server.answer(f"/{number}", picture(number)) for number in range(2)]
    urls.append(server.answer("/late", lambda request: request.reply(b"", 503)))
    urls.append(server.answer("/gone", lambda request: request.reply(b"", 404)))
    path = tmp_path / "urls.jsonl"
    path.write_text("".join(json.dumps({"url": url, "caption": url}) + "\n" for url in urls))
    pace = {"num_tries": 1, "timeout_seconds": 20}
    return {"kind": "url_list", "path": str(path), "rules": {"private_hosts": ["127.0.0.1"]}, "pace": pace}


def test_only_rows_that_failed_for_passing_reasons_are_tried_again(
    server: Web, source: dict[str, Any], ingested: Ingested, make_picture: Callable[[int], bytes]
) -> None:
    first = ingested(source, **LIMIT)
    assert server.asked == {"/0": 1, "/1": 1, "/late": 1, "/gone": 1}
    assert first.facts["statistics"]["quarantined_by_reason"] == {"not_found": 1, "server_error": 1}
    assert (first.counts["to_try_again"], first.counts["rows_out"]) == (1, 2)
    server.answer("/late", lambda request: request.reply(make_picture(2)))
    second = ingested(source, **LIMIT)
    assert server.asked == {"/0": 1, "/1": 1, "/late": 2, "/gone": 1}
    assert second.facts["statistics"]["quarantined_by_reason"] == {"not_found": 1}
    assert (second.counts["rows_in"], second.counts["rows_out"], second.counts["images"]) == (4, 3, 3)


def test_a_dataset_with_nothing_to_try_again_is_reused(
    server: Web, source: dict[str, Any], ingested: Ingested, workspace: Workspace
) -> None:
    config = IngestConfig.model_validate({"sources": [source], **LIMIT})
    first = ingested(source, **LIMIT)
    again = ingest_request(config, "demo", workspace.store)
    assert again.inputs["tries_again"] == first.fingerprint
    assert ingested(source, **LIMIT).counts["to_try_again"] == 1, "it failed once more, and is asked for once more"
    server.answer("/late", lambda request: request.reply(b"no picture"))
    third = ingested(source, **LIMIT)
    assert third.counts["to_try_again"] == 0
    assert ingest_request(config, "demo", workspace.store).fingerprint == third.fingerprint
    asked = dict(server.asked)
    assert ingested(source, **LIMIT) == third
    assert server.asked == asked


def test_an_outage_that_stopped_an_ingest_does_not_stop_the_next(
    server: Web, source: dict[str, Any], ingested: Ingested, make_picture: Callable[[int], bytes]
) -> None:
    """What an unfinished attempt could not fetch is asked for again."""
    with pytest.raises(DataError, match="2 of 4 rows are bad"):
        ingested(source, max_quarantined_fraction=0.3)
    server.answer("/late", lambda request: request.reply(make_picture(2)))
    assert ingested(source, max_quarantined_fraction=0.3).counts["rows_out"] == 3
    assert server.asked["/0"] == 1


def test_going_back_to_earlier_sources_does_not_bring_failures_back(
    server: Web,
    source: dict[str, Any],
    ingested: Ingested,
    write_source: Callable[..., dict[str, Any]],
    make_picture: Callable[[int], bytes],
) -> None:
    ingested(source, **LIMIT)
    server.answer("/late", lambda request: request.reply(make_picture(2)))
    mended = ingested(source, **LIMIT)
    ingested(source, write_source([{"image": "0.png", "caption": "more"}], 1), **LIMIT)
    assert ingested(source, **LIMIT) == mended


def test_rules_hold_for_images_that_were_fetched_by_others(
    server: Web, source: dict[str, Any], ingested: Ingested
) -> None:
    """A row of a host that is not allowed any more is not carried over."""
    assert ingested(source, **LIMIT).counts["rows_out"] == 2
    refused = {**source, "rules": {**source["rules"], "deny_hosts": ["127.0.0.1"]}}
    with pytest.raises(DataError, match="no usable example"):
        ingested(refused, **LIMIT)


def test_pace_is_no_part_of_the_fingerprint_and_rules_are(source: dict[str, Any], workspace: Workspace) -> None:
    def fingerprint(**more: Any) -> str:
        config = IngestConfig.model_validate({"sources": [{**source, **more}]})
        return ingest_request(config, "demo", workspace.store).fingerprint

    assert fingerprint(pace={"max_concurrent": 3}) == fingerprint()
    assert fingerprint(rules={}) != fingerprint()
