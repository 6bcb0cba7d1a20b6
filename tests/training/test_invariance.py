"""What an evaluation says does not depend on how its work was shared out. Texts by batch: test_generation.py."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluating import CONFIG, assert_same_rows, evaluated, request_of, rows_of
from language_model_families import EOS, MAX_POSITIONS, families

from infra.ray import connected
from infra.settings import ActorResources, RayResources
from infra.workspace import Workspace
from training import evaluate as step
from training.config import TrainConfig
from training.generation import Sampling
from training.head_outputs import HeadReader
from training.language_model import LanguageModel
from training.objectives.answer_space import AnswerSpace
from training.prefix_model import build_prefix_model

NUM_ROWS = 64


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    resources = RayResources(num_cpus=2, object_store_memory_bytes=100 * 2**20)
    with connected(resources, tmp_path_factory.mktemp("ray")):
        yield


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_workers(
    ray: None, trained_world: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "REPLIES_PER_UNIT", 6)  # seven units to share out
    config = CONFIG.model_copy(update={"strategy": Sampling(kind="sampling", temperature=2.0)})
    found = []
    for num_actors, rows_per_batch in ((1, 4), (2, 4), (2, 1)):
        actors = ActorResources(num_actors=num_actors, rows_per_batch=rows_per_batch, max_restarts=0)
        profile = workspace.profile.model_copy(update={"evaluate": actors})
        manifest, reused = evaluated(trained_world, replace(workspace, profile=profile), config)
        assert not reused and manifest.facts["num_replies"] == {"asked": 42, "reused": 0}
        found.append(rows_of(manifest, workspace))
        workspace.store.delete(request_of(trained_world, config).manifest_key)
    assert_same_rows(found[1], found[0])
    assert_same_rows(found[2], found[0])
    assert len({row["prediction"] for row in found[0]}) > 10


class Letters:
    """A token per letter."""

    def __call__(self, texts: Sequence[str], **_: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) % 90 + 3 for letter in text] for text in texts]}


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_log_likelihoods_of_answers_agree_within_1e5_over_batch_sizes(family: str) -> None:
    torch.manual_seed(0)
    language = LanguageModel(families()[family]().eval(), Letters(), Path("memory"), (1,), EOS, MAX_POSITIONS)
    settings = {
        "mapper": {"kind": "mlp", "prefix_tokens": 3, "width": 16},
        "objectives": {"classify": {"by": "text", "prompt": "label {prompt}:"}},
        "global_batch_images": 4,
        "epochs": 1,
        "learning_rate": 1e-3,
    }
    model = build_prefix_model(TrainConfig.model_validate(settings), language, (5, 8), AnswerSpace()).eval()
    model.mapper.output_scale = 1.0  # a prefix that is heard
    reader = HeadReader(model, language, AnswerSpace())
    patches_BPV = np.random.default_rng(0).normal(size=(NUM_ROWS, 5, 8)).astype(np.float16)
    asked = ["which animal stands there"[: number * 7 % 26] for number in range(NUM_ROWS)]
    labels = ["a", "dog", "striped horse"]
    whole_BC = reader.label_text_scores(patches_BPV, asked, labels)
    assert whole_BC.std(dim=0).min() > 1e-3, "images that answer alike would show nothing"
    for batch_size in (1, 3, 16):
        starts = range(0, NUM_ROWS, batch_size)
        rows = [slice(start, start + batch_size) for start in starts]
        split_BC = torch.cat([reader.label_text_scores(patches_BPV[some], asked[some], labels) for some in rows])
        assert (split_BC - whole_BC).abs().max() <= 1e-5, batch_size
