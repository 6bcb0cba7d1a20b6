"""A recipe run twice, then with one field changed: what is reused, what runs, and that `plan` had said so."""

import base64
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from servers import free_port, server
from tiny_run import FROSTLINE, TINY, TinyRun, environment_of

from infra.outputs import Manifest
from infra.store import LocalStore
from infra.tracking import Registry
from training.ledger import head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def var(tiny_run: TinyRun) -> Path:
    return tiny_run.var


@pytest.fixture(scope="module")
def picture(var: Path) -> Path:
    from data_prep.sources.digit_scenes import DigitScenes, DigitScenesConfig

    source = DigitScenes(DigitScenesConfig(kind="digit_scenes", num_images=1))
    row = next(source.rows(*source.files()))
    (var / "scene.png").write_bytes(row.image.read())
    return var / "scene.png"


def frostline(var: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [FROSTLINE, *arguments], env=environment_of(var), capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def outputs(var: Path, step: str) -> list[Manifest]:
    """All committed outputs of a step, the newest last."""
    paths = (var / "store" / step).glob("*/manifest.json")
    return sorted(
        (Manifest.model_validate_json(path.read_bytes()) for path in paths), key=lambda each: each.record.created_at
    )


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_the_second_run_reuses_every_step_writes_nothing_and_starts_no_engine(var: Path) -> None:
    before = everything_in(var)
    again = frostline(var, "run", TINY, "--json")
    assert all(step["reused"] for step in again["steps"])
    assert everything_in(var) == before
    plan = frostline(var, "plan", TINY, "--json")
    assert {step["action"] for step in plan["steps"]} == {"reuse"}


def test_a_run_that_reuses_every_step_sets_the_aliases_that_a_crash_left_behind(var: Path) -> None:
    registry = Registry(f"sqlite:///{var}/mlflow/mlflow.db")
    registry.delete_alias("tiny", "champion")
    (mark,) = (var / "store" / "register" / "mirrored" / "tiny").glob("*/00000001")
    mark.unlink()
    again = frostline(var, "run", TINY, "--json")
    assert all(step["reused"] for step in again["steps"]) and again["warnings"] == []
    assert registry.aliases("tiny") == {"champion": "1"}
    assert mark.exists()


def test_a_run_until_a_step_ends_there(var: Path) -> None:
    """Under another learning rate the training, which comes next, would run."""
    before = everything_in(var / "store")
    ran = frostline(var, "run", TINY, "--json", "--set", "training.learning_rate=0.004", "--until", "featurize")
    assert [(step["name"], step["reused"]) for step in ran["steps"]] == [
        ("ingest", True), ("base", True), ("featurize", True),
    ]  # fmt: skip
    assert ran["model"] is None
    assert everything_in(var / "store") == before


def test_after_a_repair_exactly_the_damaged_part_is_made_again_and_a_forced_step_as_it_was(var: Path) -> None:
    report = frostline(var, "verify", "--json")
    assert report["damaged"] == []
    assert report["num_outputs"] == 6
    (before,), (evaluated,) = outputs(var, "featurize"), outputs(var, "evaluate")
    part = max(before.parts_of("features"), key=lambda part: part.num_rows)
    path = var / "store" / "featurize" / "parts" / part.digest
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    environment = {**os.environ, "FROSTLINE_VAR_DIR": str(var)}
    done = subprocess.run([FROSTLINE, "verify"], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 4
    assert f"featurize/parts/{part.digest}: found {len(data)} bytes with sha256" in done.stdout

    repaired = frostline(var, "verify", "--repair", "--json")
    assert repaired["to_make_again"] == [f"recipe {before.name}, featurize: 1 of {len(before.parts)} parts"]
    ran = frostline(var, "run", TINY, "--json", "--force", "evaluate")
    assert {step["name"] for step in ran["steps"] if not step["reused"]} == {"featurize", "evaluate"}
    (after,), (again,) = outputs(var, "featurize"), outputs(var, "evaluate")
    assert (after.counts["encoded"], after.parts) == (part.num_rows, before.parts)
    assert again.record.created_at > evaluated.record.created_at
    assert (again.fingerprint, again.identity, again.facts) == (
        evaluated.fingerprint, evaluated.identity, evaluated.facts,
    )  # fmt: skip
    assert (ran["model"]["version"], ran["model"]["aliases"]) == ("1", ["champion"])
    assert frostline(var, "verify", "--json")["damaged"] == []


def test_another_learning_rate_trains_again_as_the_plan_said_and_once_where_two_start_at_once(var: Path) -> None:
    change = ("--set", "training.learning_rate=0.002")
    plan = {step["name"]: step for step in frostline(var, "plan", TINY, "--json", *change)["steps"]}
    assert plan["train"]["action"] == "run"
    assert plan["train"]["changed"] == ["training.learning_rate"]
    assert "0.003 → 0.002" in plan["train"]["reason"]

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: frostline(var, "run", TINY, "--json", *change), range(2)))
    ran, waited = sorted(both, key=lambda one: all(step["reused"] for step in one["steps"]))
    assert all(step["reused"] for step in waited["steps"])
    assert waited["model"] == ran["model"]
    reused = {step["name"]: step["reused"] for step in ran["steps"]}
    assert reused == {
        "ingest": True, "base": True, "featurize": True, "train": False, "evaluate": False, "register": False,
    }  # fmt: skip
    assert {name for name, step in plan.items() if step["action"] == "reuse"} == {n for n, r in reused.items() if r}
    assert ran["model"]["version"] == "2"

    status = frostline(var, "status", "--json")
    (model,) = status["models"]
    assert [version["version"] for version in model["versions"]] == ["1", "2"]


def test_the_registered_model_answers_on_the_command_line_and_over_http_alike(var: Path, picture: Path) -> None:
    """Over HTTP by `mlflow models serve`, as any client asks: a picture as base64, with and without a question."""
    question, port = "how many digits are there?", free_port()
    (caption,) = frostline(var, "caption", "models:/tiny@champion", str(picture), "--json")
    assert set(caption) == {"image", "caption"}
    answer = frostline(var, "ask", "models:/tiny@champion", str(picture), question, "--json")
    assert set(answer) == {"image", "question", "answer"}

    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{var}/mlflow/mlflow.db",
        "FROSTLINE_VAR_DIR": str(var),
        "OMP_NUM_THREADS": "1",
    }
    serve = [
        "mlflow", "models", "serve", "-m", "models:/tiny@champion", "--env-manager", "local",
        "-h", "127.0.0.1", "-p", str(port), "--workers", "1",
    ]  # fmt: skip
    encoded = base64.b64encode(picture.read_bytes()).decode()
    table = {"columns": ["image", "prompt"], "data": [[encoded, ""], [encoded, question]]}
    with server(serve, environment, var / "serve.log", f"http://127.0.0.1:{port}/ping"):
        request = Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_split": table}).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=100) as found:
            served = json.load(found)["predictions"]
    assert served == [caption["caption"], answer["answer"]]
    assert all(served)


def test_a_person_changes_who_serves_and_takes_it_back(var: Path) -> None:
    before, planned = frostline(var, "history", "tiny", "--json"), frostline(var, "plan", TINY, "--json")
    champion = before["aliases"]["champion"]
    other = {"1": "2", "2": "1"}[champion]
    made = frostline(var, "promote", "tiny", other, "--reason", "better at night", "--json")
    assert (made["changed"], made["aliases"]["champion"], made["aliases"]["previous"]) == (True, other, champion)
    assert made["entry"]["reasons"] == ["promoted by hand: better at night"]
    assert not frostline(var, "promote", "tiny", other, "--json")["changed"]
    back = frostline(var, "rollback", "tiny", "--json")
    assert back["aliases"]["champion"] == champion
    after = frostline(var, "history", "tiny", "--json")["entries"]
    assert [entry["kind"] for entry in after[len(before["entries"]) :]] == ["promoted_by_hand", "rollback"]
    assert frostline(var, "plan", TINY, "--json") == planned
    found = frostline(var, "compare", "tiny", "1", "2", "--json")
    assert found["scored_alike"] and "rouge_l" in found["differences"]


def test_an_exported_folder_loads_as_its_readme_says(var: Path, picture: Path) -> None:
    folder = var / "exported"
    frostline(var, "export", "models:/tiny@champion", str(folder), "--json")
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code.replace("photo.jpg", str(picture))],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.long
def test_watch_tells_new_rows_and_compares_them_through_the_champions_own_tower(var: Path) -> None:
    quiet = frostline(var, "watch", TINY, "--json")
    assert (quiet["retrain"], quiet["champion"]["num_new_images"]) == (False, 0)
    trained = {step: len(outputs(var, step)) for step in ("base", "train", "evaluate", "register")}
    rule = ("--set", "watch.new_examples=40", "--set", "promotion.floors={rouge_l: 0.001}")
    grown = frostline(var, "watch", TINY, "--json", "--set", "ingest.sources.0.num_images=640", *rule)
    fires = {trigger["name"]: trigger["fires"] for trigger in grown["triggers"]}
    assert fires == {"new_examples": True, "drift": False, "floors": False}
    found = grown["champion"]
    assert found["num_new_images"] == found["drift"]["num_new"] == 32  # of 40: the others are val and test
    assert found["num_new_examples"] > 40
    assert len({each.inputs["tower_digest"] for each in outputs(var, "featurize")}) == 1
    assert {step: len(outputs(var, step)) for step in trained} == {**trained, "evaluate": trained["evaluate"] + 1}


@pytest.mark.long
def test_with_other_test_rows_the_champion_is_evaluated_on_them_before_it_is_compared(var: Path) -> None:
    """Through its own tower and language model: more images make other base models too."""
    champion = head(LocalStore(var / "store"), "tiny")
    assert champion is not None
    before = {each.fingerprint for each in outputs(var, "evaluate")}
    ran = frostline(var, "run", TINY, "--json", "--set", "ingest.sources.0.num_images=700")
    assert not any(step["reused"] for step in ran["steps"])

    test_digest = outputs(var, "ingest")[-1].identity["test_digest"]
    new = {each.inputs["model_digest"]: each for each in outputs(var, "evaluate") if each.fingerprint not in before}
    assert new.keys() == {champion.model_digest, ran["model"]["digest"]}
    ours, theirs = new[ran["model"]["digest"]], new[champion.model_digest]
    assert ours.inputs["test_digest"] == theirs.inputs["test_digest"] == test_digest
    assert ours.num_rows == theirs.num_rows
    assert ours.inputs["encoder_key"] != theirs.inputs["encoder_key"]
    assert theirs.inputs["encoder_key"] in {each.inputs["encoder_key"] for each in outputs(var, "evaluate")[:1]}

    decision = outputs(var, "register")[-1]
    assert decision.inputs["champion_digest"] == champion.model_digest
    scores = ours.facts["metrics"]["rouge_l"], theirs.facts["metrics"]["rouge_l"]
    told = f"rouge_l is {scores[0]:.4f} against the champion's {scores[1]:.4f}"
    assert any(reason.startswith(told) for reason in decision.facts["promotion"]["reasons"])


@pytest.mark.long
def test_a_registered_model_is_evaluated_on_other_rows_without_a_training(var: Path) -> None:
    asked = ("evaluate", "models:/tiny@champion", "--set", "max_new_tokens=8", "--json")
    source = "{kind: digit_scenes, num_images: 30, seed: 7, image_size_px: 48, name: others}"
    found = frostline(var, *asked, "--source", source)
    assert [(step["name"], step["reused"]) for step in found["steps"]] == [
        ("ingest", False), ("featurize", False), ("evaluate", False),
    ]  # fmt: skip
    assert found["steps"][2]["rows"] > 0 and 0 <= found["metrics"]["vqa_accuracy"] <= 1 and found["model"] is None
    again = frostline(var, *asked, "--source", source)
    assert all(step["reused"] for step in again["steps"]) and again["metrics"] == found["metrics"]


@pytest.mark.long
def test_a_smaller_model_is_evaluated_and_registered_only_where_it_loses_little(var: Path, picture: Path) -> None:
    champions, steps = frostline(var, "history", "tiny", "--json"), len(outputs(var, "evaluate"))
    asked = [FROSTLINE, "export", "models:/tiny@champion", "--quantize", "int8", "--json"]
    refused = subprocess.run(
        [*asked, str(var / "refused"), "--max-loss", "0"],
        env=environment_of(var), capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert refused.returncode == 1, refused.stderr
    told = json.loads(refused.stdout)
    assert (told["model"], told["promotion"]["case"]) == (None, "loses_quality")
    assert (var / "refused" / "language_model" / "int8.safetensors").stat().st_size > 0
    assert not outputs(var, "register")[-1].inputs["model_name"].endswith("int8")

    ledger = var / "store" / "register" / "ledger" / "tiny-int8"
    ledger.mkdir()
    (ledger / "00000001.json").write_bytes(b"damaged")
    stopped = subprocess.run(
        [*asked, str(var / "smaller"), "--max-loss", "0.5"],
        env=environment_of(var), capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert (stopped.returncode, (var / "smaller").exists()) == (4, False), stopped.stderr
    (ledger / "00000001.json").unlink()
    found = frostline(var, *asked[1:], str(var / "smaller"), "--max-loss", "0.5")
    assert (found["model"]["name"], found["model"]["aliases"]) == ("tiny-int8", ["champion"])
    old, new = found["figures"]["original"], found["figures"]["int8"]
    assert new["language_model_bytes"] < 0.6 * old["language_model_bytes"] and new["memory_bytes"] < old["memory_bytes"]
    assert set(found["metrics"]["rouge_l"]) == {"original", "int8", "difference", "interval"}
    decision, evaluation = outputs(var, "register")[-1], outputs(var, "evaluate")[-1]
    assert decision.facts["answers_checked"]["agreed"] > 0
    assert evaluation.inputs["model_digest"] == decision.inputs["model_digest"] == found["model"]["digest"]
    assert len(outputs(var, "evaluate")) == steps + 1  # of the smaller model, once; the original's was there
    (caption,) = frostline(var, "caption", "models:/tiny-int8@champion", str(picture), "--json")
    assert set(caption) == {"image", "caption"}
    assert frostline(var, "history", "tiny", "--json") == champions
