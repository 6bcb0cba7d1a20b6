"""The `frostline` command as a user meets it: its answers to wrong input, and what it does without engines."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.plan import Plan

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = str(REPOSITORY / "tests" / "recipes" / "tiny.yaml")
FROSTLINE = str(Path(sys.executable).parent / "frostline")


def frostline(var: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FROSTLINE_VAR_DIR": str(var), "HF_HUB_OFFLINE": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [FROSTLINE, *arguments], env=environment, capture_output=True, text=True, timeout=120, cwd=var
    )


def refused(var: Path, *arguments: str) -> str:
    """The one sentence in which the command refuses."""
    done = frostline(var, *arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("frostline: ")
    return sentence


def test_help_shows_an_example(tmp_path: Path) -> None:
    done = frostline(tmp_path, "run", "--help")
    assert done.returncode == 0
    assert "frostline run quickstart" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "promote",
        "rollback",
        "approve",
        "refuse",
        "watch",
        "notify",
        "restore",
        "history",
        "compare",
        "export",
        "up",
        "down",
        "reap",
        "doctor",
    ],
)
def test_each_command_about_who_serves_and_about_the_servers_shows_an_example(tmp_path: Path, command: str) -> None:
    assert f"frostline {command} " in frostline(tmp_path, command, "--help").stdout


def test_without_a_champion_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    told = refused(tmp_path, "rollback", "tiny")
    assert "tiny: there is no former champion (nothing was ever promoted)" in told
    for arguments in (["history", "tiny", "--json"], ["promote", "tiny", "1"]):
        assert "nothing is registered under the name 'tiny'; expected one of none" in refused(tmp_path, *arguments)


def test_a_misspelt_key_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    told = refused(tmp_path, "plan", TINY, "--set", "training.learning_rat=0.1")
    assert "training.learning_rat" in told
    assert "Did you mean 'learning_rate'?" in told


def test_a_misspelt_key_inside_a_source_is_named_with_its_place(tmp_path: Path) -> None:
    told = refused(tmp_path, "plan", TINY, "--set", "ingest.sources.0.num_imagse=3")
    assert "ingest.sources.0.num_imagse" in told
    assert "Did you mean 'num_images'?" in told


def test_an_unknown_recipe_names_the_shipped_ones(tmp_path: Path) -> None:
    assert "expected the path of a YAML file or one of quickstart" in refused(tmp_path, "run", "nowhere")


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    source = "{kind: coco_captions, annotations: nope.json, images: .}"
    recipe.write_text(
        Path(TINY).read_text().replace("{kind: digit_scenes, num_images: 600, seed: 0, image_size_px: 48}", source)
    )
    told = refused(tmp_path, "run", str(recipe))
    assert f"{tmp_path}/nope.json: cannot read (No such file or directory)" in told


def test_a_store_that_cannot_be_written_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = refused(tmp_path, "run", TINY, "--store", str(tmp_path / "file" / "store"))
    assert "cannot write (Not a directory)" in told
    assert not (tmp_path / "prefect").exists()


def test_a_hub_id_that_cannot_be_reached_is_named_before_an_engine_starts(tmp_path: Path) -> None:
    tower = "vision_tower={id: nobody/nothing, revision: 0123456789012345678901234567890123456789}"
    told = refused(tmp_path, "run", TINY, "--set", tower)
    assert "nobody/nothing@012345678901: cannot be fetched from the hub" in told
    assert not (tmp_path / "prefect").exists()


def test_a_branch_name_is_no_revision(tmp_path: Path) -> None:
    told = refused(tmp_path, "plan", TINY, "--set", "vision_tower={id: openai/clip-vit-base-patch32, revision: main}")
    assert "expected a commit of 40 hexadecimal digits" in told


def test_a_language_model_with_another_vocabulary_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from training.base.text import tokenizer_text
    from training.base.tokenizer import train_tokenizer

    folder = tmp_path / "language_model"
    config = LlamaConfig(
        vocab_size=100, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = train_tokenizer(tokenizer_text(0, 50), 400)
    tokenizer.save_pretrained(folder)
    told = refused(tmp_path, "run", TINY, "--set", f"language_model={{folder: {folder}}}")
    assert f"the tokenizer has {len(tokenizer)} tokens; expected at most the 100 rows" in told
    assert not (tmp_path / "prefect").exists()


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    told = refused(tmp_path, "caption", "models:/tiny@champion", str(tmp_path / "broken.png"))
    assert f"{tmp_path}/broken.png: 17 bytes that begin with b'\\x89PNG not' were found; expected JPEG, PNG" in told


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    assert "expected one of ingest, base, featurize" in refused(tmp_path, "run", TINY, "--until", "ingets")


def test_a_training_that_gives_no_answer_is_refused_where_it_would_be_evaluated(tmp_path: Path) -> None:
    told = refused(tmp_path, "run", TINY, "--set", "training.objectives={contrast: {}}")
    assert "objectives contrast gives no answers that evaluate could score" in told and "--until train" in told


def test_a_gate_on_what_is_not_trained_is_refused_at_the_start_and_told_by_the_plan(tmp_path: Path) -> None:
    changes = ("--set", "training.objectives={vqa: {}}")
    told = refused(tmp_path, "run", TINY, *changes)
    assert "promotion asks for rouge_l, which is a metric of caption, and training.objectives has vqa" in told
    planned = frostline(tmp_path, "plan", TINY, *changes)
    assert "`frostline run` would refuse: promotion asks for rouge_l" in planned.stdout, planned.stderr


@pytest.mark.shared_data
def test_a_regime_that_cannot_train_is_refused_before_an_engine_starts(tmp_path: Path, shared_data: Path) -> None:
    models = {"vision_tower": "mobilenet_v2_hf_fp16", "language_model": "stories260K_hf"}
    named = [f"{name}={{folder: {shared_data / 'weights' / folder}}}" for name, folder in models.items()]
    bitfit = "training.regime={kind: bitfit, learning_rate: 0.001}"
    changes = [part for value in (*named, bitfit, "base=null") for part in ("--set", value)]
    assert "no biases" in refused(tmp_path, "run", TINY, *changes)
    long = [part for value in (*named, "base=null", "training.mapper.prefix_tokens=600") for part in ("--set", value)]
    assert "example any caption… take" in refused(tmp_path, "run", TINY, *long)


def test_a_recipe_without_a_gate_can_be_planned_up_to_its_training_and_is_refused_beyond(tmp_path: Path) -> None:
    ungated = ("--set", "promotion=null")
    assert frostline(tmp_path, "plan", TINY, "--until", "train", *ungated).returncode == 0
    assert "the key 'promotion' is missing" in refused(tmp_path, "run", TINY, *ungated)


def test_a_plan_ends_where_it_is_told(tmp_path: Path) -> None:
    done = frostline(tmp_path, "plan", TINY, "--until", "featurize", "--set", "training.objectives={regress: {}}")
    assert done.returncode == 0, done.stderr
    assert "featurize" in done.stdout and "evaluate" not in done.stdout and "refuse" not in done.stdout


@pytest.mark.slow
def test_a_dataset_without_a_usable_row_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    recipe = tmp_path / "recipe.yaml"
    text = Path(TINY).read_text()
    source = "{kind: digit_scenes, num_images: 600, seed: 0, image_size_px: 48}"
    recipe.write_text(text.replace(source, "{kind: jsonl, path: rows.jsonl, images: pictures}"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.txt").write_text("no picture")
    assert "the sources hold 0 rows and no usable example" in refused(tmp_path, "run", str(recipe))


def test_plan_writes_nothing_and_gives_its_contract(tmp_path: Path) -> None:
    done = frostline(tmp_path, "plan", TINY, "--json")
    plan = Plan.model_validate(json.loads(done.stdout))
    assert [step.name for step in plan.steps] == ["ingest", "base", "featurize", "train", "evaluate", "register"]
    assert {step.action for step in plan.steps} == {"run"}
    assert not (tmp_path / "store").exists()


def test_plan_estimates_the_memory_of_each_stage_and_warns_of_a_machine_that_is_too_small(tmp_path: Path) -> None:
    from tiny_language_model import save_language_model
    from tiny_towers import save_tower
    from transformers import ViTImageProcessor

    save_language_model(tmp_path / "lm")
    save_tower("vit", tmp_path / "tower")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tower")
    models = [f"language_model={{folder: {tmp_path}/lm}}", f"vision_tower={{folder: {tmp_path}/tower}}"]
    changes = [part for model in models for part in ("--set", model)]
    memory = Plan.model_validate_json(frostline(tmp_path, "plan", TINY, *changes, "--json").stdout).memory
    assert memory is not None and not memory.warnings
    assert [estimate.zero_stage for estimate in memory.by_stage] == [0, 1, 2, 3]
    assert all(500e6 < estimate.cpu_bytes() < 1e9 for estimate in memory.by_stage)
    told = frostline(tmp_path, "plan", TINY, *changes, "--set", "profile.train.num_ranks=10000").stdout
    assert "CPU by ZeRO stage: 0: 0." in told
    assert "of this machine's memory (10000 ranks); expected at most the" in told


def test_plan_says_that_a_base_that_is_to_be_trained_cannot_be_estimated_yet(tmp_path: Path) -> None:
    assert "it is estimated once the models are on this machine" in frostline(tmp_path, "plan", TINY).stdout


def test_planning_imports_no_engine() -> None:
    script = (
        "import sys, flows.cli\n"
        f"sys.argv = ['frostline', 'plan', {TINY!r}, '--store', '/nonexistent/store']\n"
        "try: flows.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'prefect', 'mlflow', 'deepspeed', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_status_of_an_empty_store_says_how_to_start(tmp_path: Path) -> None:
    done = frostline(tmp_path, "status")
    assert done.returncode == 0
    assert "frostline run quickstart" in done.stdout


def test_a_metric_that_does_not_exist_is_refused_before_anything_runs(tmp_path: Path) -> None:
    told = refused(tmp_path, "plan", TINY, "--set", "promotion.primary_metric=cidr")
    assert "promotion.primary_metric is 'cidr'" in told


def test_up_names_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = refused(tmp_path, "up", "--prefect-port", str(port))
    assert f"port {port} is taken by another program" in told
    assert "--prefect-port" in told


def test_up_refuses_what_is_no_postgresql_and_shows_no_password(tmp_path: Path) -> None:
    told = refused(tmp_path, "up", "--postgres", "mysql://frost:secret@host/db")
    assert "expected postgresql://" in told
    assert "secret" not in told
    for hard in ("postgresql://frost:se/cret@host:5432", "postgresql://frost@host?password=secret"):
        told = refused(tmp_path, "up", "--postgres", hard)
        assert "cret" not in told
    told = refused(tmp_path, "up", "--postgres", "postgresql://frost:secret@127.0.0.1:1")
    assert "expected to list and create databases there" in told
    assert "secret" not in told


def test_down_without_up_stops_nothing(tmp_path: Path) -> None:
    done = frostline(tmp_path, "down")
    assert (done.returncode, done.stdout) == (0, "nothing of `frostline up` runs here\n")


def test_doctor_says_the_remedy_of_each_fault_and_ends_with_5(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    done = frostline(tmp_path, "doctor", "--store", str(tmp_path / "store"), "--json")
    faults = [each for each in json.loads(done.stdout)["findings"] if each["state"] == "fault"]
    assert [each["name"] for each in faults] == ["store"]
    assert faults[0]["remedy"]
    assert done.returncode == 5
