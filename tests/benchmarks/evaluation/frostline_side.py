"""Frostline: what an actor of `evaluate` runs, in this process; and the whole step where all texts are known."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from no_tower import NO_TOWER
from second_world import SecondWorld, second_world
from sides import Timed, serve
from worlds import WORLD

from infra.digests import digest_json
from infra.outputs import Manifest, ensure_output
from training import evaluate as step
from training.answering import Answerer
from training.asking import Asked
from training.evaluate import evaluate, evaluate_request
from training.evaluation_config import EvaluationConfig

THREADS = 2


def answer(folder: str) -> dict[str, Any]:
    """Texts per second of a loaded model, features read from the store's verified parts."""
    answerer = answerer_of(folder)
    asked = [Asked(*one) for one in json.loads((Path(folder) / WORLD).read_text())["asked"]]
    with Timed() as timed:
        texts = [reply.text for reply in answerer.run(asked)]
    return {
        "captions": len(texts),
        "seconds": timed.seconds,
        "cpu_seconds": timed.cpu_seconds,
        "texts": digest_json(texts),
        "mean_words": sum(len(text.split()) for text in texts) / len(texts),
    }


@cache
def answerer_of(folder: str) -> Answerer:
    world = json.loads((Path(folder) / WORLD).read_text())
    options = {
        "threads": THREADS,
        "batch_size": world["batch_size"],
        "blind_images": (),
        "shots": {},
        "generation": {"max_new_tokens": world["max_new_tokens"]},
    }
    tower = NO_TOWER.model_dump(mode="json")
    return Answerer(world["store"], world["cache"], world["outputs"], world["language_model"], tower, options)


def evaluate_first(folder: str, num_images: int) -> dict[str, Any]:
    """Generate every text, so that the next evaluation finds them."""
    return _evaluated(second_world(Path(folder), num_images), number=0)


def evaluate_again(folder: str, num_images: int, number: int) -> dict[str, Any]:
    """An evaluation with another setting each time: from the request to the committed manifest."""
    return _evaluated(second_world(Path(folder), num_images), number)


def _evaluated(world: SecondWorld, number: int) -> dict[str, Any]:
    config = EvaluationConfig(max_new_tokens=world.max_new_tokens, gallery_examples=number + 1)
    inputs, workspace = world.inputs, world.workspace
    step.run_units = _here  # type: ignore[assignment]
    with Timed() as timed:
        request = evaluate_request(config, "bench", inputs.train, inputs.dataset, inputs.features)
        found: tuple[Manifest, bool] = ensure_output(
            workspace.store, request, lambda attempt: evaluate(config, inputs, attempt, workspace), {}
        )
    manifest, reused = found
    assert not reused, "each evaluation is another one"
    measured = {"seconds": timed.seconds, "cpu_seconds": timed.cpu_seconds}
    return {**measured, "rows": manifest.num_rows, **manifest.facts["num_replies"]}


def _here(worker: type, arguments: Mapping[str, Any], units: Mapping[str, Any], _: object, keep: Any) -> None:
    """In this process instead of in actors."""
    answerer = worker(**arguments)
    for name, unit in units.items():
        keep(name, answerer.run(unit))


if __name__ == "__main__":
    commands = {"answer": answer, "evaluate_first": evaluate_first, "evaluate_again": evaluate_again}
    serve(commands, ("frostline", "torch", "transformers", "numpy", "pyarrow"))
