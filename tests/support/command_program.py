"""The `frostline` command, and MLflow as its users call it, in the children of a forge."""

import json
import os
import sys
from pathlib import Path


def warm_up(package: str, image: str, cache: str) -> None:
    """Import what the commands need, also what is imported at the first use of a model, so that no child has to."""
    import mlflow.pyfunc
    import mlflow.store.artifact.artifact_repository_registry
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    import training.export
    import training.version  # noqa: F401
    from training.predictor import Predictor

    Predictor.load(Path(package), Path(cache)).caption([Path(image).read_bytes()])


def command(told: str, *arguments: str) -> None:
    """Writes the exit code and what was printed to the file `told`, as JSON."""
    from flows.cli import main

    files = [Path(f"{told}.{name}") for name in ("output", "error")]
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["frostline", *arguments]
    code: object = None
    try:
        main()
    except SystemExit as done:
        code = done.code
    sys.stdout.flush()
    Path(told).write_text(json.dumps([code, *(path.read_text() for path in files)]))


def load_with_mlflow(model_uri: str) -> None:
    import mlflow.pyfunc

    mlflow.pyfunc.load_model(model_uri)


def load_trusting(folder: str) -> None:
    """As whoever believes a checkpoint's remote code."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
