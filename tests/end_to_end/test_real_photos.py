"""Real photos and human captions through a pretrained tower and language model, to a registered model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "tests" / "recipes" / "coco_mini.yaml"
FROSTLINE = str(Path(sys.executable).parent / "frostline")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.shared_data
@pytest.mark.timeout(1800)
def test_photos_go_through_a_pretrained_tower_and_language_model_to_a_registered_model(
    tmp_path: Path, shared_data: Path
) -> None:
    environment = {**os.environ, "FROSTLINE_VAR_DIR": str(tmp_path)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    places = {
        "ingest.sources.0.annotations": "coco_mini/captions.json",
        "ingest.sources.0.images": "coco_mini/images",
        "vision_tower.folder": "weights/mobilenet_v2_hf_fp16",
        "language_model.folder": "weights/stories260K_hf",
    }
    assignments = [argument for key, place in places.items() for argument in ("--set", f"{key}={shared_data / place}")]
    ran = subprocess.run(
        [FROSTLINE, "run", str(RECIPE), "--json", *assignments],
        env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    rows = {step["name"]: step["rows"] for step in found["steps"]}
    assert rows["ingest"] == rows["featurize"] == 295
    assert set(found["control"]) == {"caption_exact_match", "bleu_4", "rouge_l", "cider_d"}
    assert set(found["metrics"]) == {*found["control"], "perplexity", "hard_negative_accuracy"}
    assert found["metrics"]["rouge_l"] > 0.15, "the captions have nothing of the references' words"
    assert found["model"]["version"] == "1"

    photo = sorted((shared_data / "coco_mini" / "images").glob("*.jpg"))[0]
    asked = subprocess.run(
        [FROSTLINE, "caption", found["model"]["uri"], str(photo)],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()
