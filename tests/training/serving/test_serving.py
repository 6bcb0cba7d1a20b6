"""A running `frostline serve`: what it answers, while versions change, whatever is sent to it."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from captions import (
    assert_each_answer_is_its_versions,
    captions_asked,
    in_json,
    predictor_of,
    swap_under_load,
    version_of,
)
from load import Request, put_load
from malformed import CASES, send_malformed
from served_model import NAME

from data_prep.forgotten import remember

pytestmark = pytest.mark.slow
QUESTION = "how many digits are there?"


JSON = {"content-type": "application/json"}


def test_answers_are_those_of_the_command_line(running: Any, picture: bytes) -> None:
    caption = running.post("/v1/caption", files={"image": picture})
    assert caption.json() == {
        "caption": predictor_of(running.model, "1").caption([picture])[0], "model": {"name": NAME, "version": "1"},
    }  # fmt: skip
    questions = [QUESTION, "what colour is the leftmost digit?"]
    by_form = running.post("/v1/ask", files={"image": picture}, data={"questions": questions}).json()
    by_json = running.post("/v1/ask", content=in_json(picture, questions=questions), headers=JSON).json()
    assert by_form == by_json
    assert [one["answer"] for one in by_json["answers"]] == predictor_of(running.model, "1").ask(picture, questions)


def test_a_batch_changes_no_answer(running: Any) -> None:
    load = put_load(running.server.url, captions_asked(running, 120), 32, running.server.headers)
    assert not load.failed
    assert assert_each_answer_is_its_versions(load, running) == {"1"}
    lines = running.get("/metrics").text.splitlines()
    (in_batches,) = [line for line in lines if line.startswith("frostline_batch_requests_sum")]
    (requests,) = [line for line in lines if line.startswith("frostline_batch_requests_count")]
    assert float(in_batches.split()[1]) > 2 * float(requests.split()[1]), "what waited was answered together"


def test_labels_of_the_request_are_chosen_among(running: Any, picture: bytes) -> None:
    caption = running.post("/v1/caption", files={"image": picture}).json()["caption"]
    found = running.post("/v1/classify", content=in_json(picture, labels=["a dog", caption]), headers=JSON).json()
    assert found["label"] == caption
    assert sum(one["probability"] for one in found["scores"]) == pytest.approx(1)
    assert running.post("/v1/classify", files={"image": picture}).json()["error"]["code"] == "no_labels"


def test_the_most_similar_stored_image_is_the_picture_itself_until_it_is_forgotten(running: Any) -> None:
    picture = running.pictures[7]
    found = running.post("/v1/similar", files={"image": picture}, data={"count": "3"}).json()["images"]
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-3) and found[0]["captions"]
    assert found[0]["similarity"] >= found[1]["similarity"] >= found[2]["similarity"]
    remember(running.model.workspace.store, [found[0]["image_id"]])
    again = running.post("/v1/similar", files={"image": picture}, data={"count": "3"}).json()["images"]
    assert [one["image_id"] for one in again[:2]] == [one["image_id"] for one in found[1:]]


def test_the_parts_that_carried_an_answer_are_told(running: Any, picture: bytes) -> None:
    found = running.post("/v1/explain", files={"image": picture}, data={"question": QUESTION}).json()
    asked = running.post("/v1/ask", files={"image": picture}, data={"questions": QUESTION}).json()
    assert found["answer"] == asked["answers"][0]["answer"]
    assert {len(row) for row in found["falls"]} == {len(found["falls"])}
    assert max(max(row) for row in found["falls"]) > 0


def test_a_question_that_does_not_fit_costs_the_others_nothing(running: Any) -> None:
    long = Request("/v1/ask", in_json(running.pictures[0], questions=["how many digits " * 60]))
    requests = [long, *captions_asked(running, 20)]
    load = put_load(running.server.url, requests, 21, running.server.headers)
    by_number = {answer.number: answer for answer in load.answers}
    assert json.loads(by_number[0].body)["error"]["code"] == "text_too_long"
    assert {answer.status for number, answer in by_number.items() if number} == {200}


def test_a_damaged_version_does_not_serve_and_the_old_one_goes_on(running: Any) -> None:
    version = running.model.add_version(3)
    weights = Path(version.source_uri.removeprefix("file://")) / "artifacts" / "package" / "trainables.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    running.model.move_champion(version.version)
    deadline = time.monotonic() + 60
    while (state := running.get("/readyz").json())["not_serving"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert state["ready"] and state["model"]["version"] == "1"
    assert "trainables.safetensors" in state["not_serving"]
    assert "frostline_swap_failing 1.0" in running.get("/metrics").text
    assert running.post("/v1/caption", files={"image": running.pictures[0]}).status_code == 200
    running.model.move_champion("1")
    while running.get("/readyz").json()["not_serving"]:
        time.sleep(0.2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_malformed_is_refused_by_its_own_code(running: Any, case: Any) -> None:
    assert send_malformed(running.server, running.pictures[0], case) == (case.status, case.code)


def test_the_server_lives_after_all_that(running: Any, picture: bytes) -> None:
    assert running.post("/v1/caption", files={"image": picture}).status_code == 200
    assert httpx.get(running.server.url + "/healthz").text == "ok"
    assert "frostline_waiting_bytes 0.0" in running.get("/metrics").text


def test_when_the_alias_moves_no_request_fails(running: Any) -> None:
    """The last test of this file: the others expect the first version."""
    served = swap_under_load(running, "2", num_requests=300)
    assert not served.failed, served.failed[0]
    assert assert_each_answer_is_its_versions(served, running) == {"1", "2"}
    running.model.move_champion("1")
    while version_of(running) != "1":
        time.sleep(0.3)
