"""The base step: two folders that transformers can load, made once, whatever happens on the way."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from infra.errors import IntegrityError, PlatformError
from infra.outputs import Manifest, ensure_output, find_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.ray import connected
from infra.repair import repair_store
from infra.settings import CpuActorResources, Profile, RayResources, Settings
from infra.store import LocalStore
from infra.verify import verify_store
from infra.workspace import Workspace
from training.base import step
from training.base.config import BaseConfig, LanguageModelConfig, ScheduleConfig, TowerConfig
from training.base.step import LANGUAGE_MODEL, VISION_TOWER, BaseTrainer, base, base_request

SCHEDULE = ScheduleConfig(num_steps=10, batch_scenes=4, learning_rate=2e-3, warmup_steps=2)
CONFIG = BaseConfig(
    seed=0,
    language_model=LanguageModelConfig(
        vocab_tokens=400,
        width=16,
        mlp_width=32,
        num_layers=1,
        num_heads=2,
        num_scenes=20,
        description_vectors=12,
        folded_share=0.5,
        noise=0.2,
        schedule=SCHEDULE,
    ),
    tower=TowerConfig(
        image_size_px=48, stem_width=8, stage_widths=(8, 8, 8), stage_layers=(1, 1, 1), shift_px=2, schedule=SCHEDULE
    ),
)
KILLED_AT = 7
"""A checkpoint is saved after every step, so 7 steps are done when the eighth (number 7) is killed."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    resources = RayResources(num_cpus=2, object_store_memory_bytes=100 * 2**20)
    with connected(resources, tmp_path_factory.mktemp("ray")):
        yield


def workspace_in(folder: Path, profile: Profile) -> Workspace:
    """A store of its own; an actor that dies is not replaced."""
    store = LocalStore(folder / "store")
    actors = CpuActorResources(num_actors=2, max_restarts=0)
    resources = profile.model_copy(update={"base": actors})
    return Workspace(Settings(var_dir=folder), resources, store, PartCache(store, folder / "cache"), Silent())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> tuple[Workspace, Manifest, Manifest]:
    """(workspace, dataset of digit scenes, base models)."""
    workspace = workspace_in(tmp_path_factory.mktemp("undisturbed"), profile)
    source = {"kind": "digit_scenes", "num_images": 24, "image_size_px": 48}
    config = IngestConfig.model_validate({"sources": [source]})
    dataset, _ = ensure_output(
        workspace.store,
        ingest_request(config, "tiny", workspace.store),
        lambda attempt: ingest(config, attempt, workspace),
        {},
    )
    made, reused = made_base(dataset, workspace)
    assert not reused
    return workspace, dataset, made


def made_base(dataset: Manifest, workspace: Workspace) -> tuple[Manifest, bool]:
    request = base_request(CONFIG, "tiny", dataset)
    return ensure_output(workspace.store, request, lambda attempt: base(CONFIG, dataset, attempt, workspace), {})


@pytest.fixture
def elsewhere(
    tmp_path: Path, profile: Profile, undisturbed: tuple[Workspace, Manifest, Manifest]
) -> tuple[Workspace, Manifest]:
    """A store that holds the dataset only."""
    there, dataset, _ = undisturbed
    workspace = workspace_in(tmp_path, profile)
    shutil.copytree(there.store.folder / "ingest", tmp_path / "store" / "ingest")  # type: ignore[attr-defined]
    return workspace, dataset


class Counted(Silent):
    """How many units each line got to."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def advance(self, label: str, amount: int = 1, note: str = "") -> None:  # noqa: ARG002
        self.done[label] += amount


def trainer_that_tells(folder: Path, killed: str | None) -> type[BaseTrainer]:
    """Writes each step it takes into `folder`, and SIGKILLs itself once, in the training named `killed`.

    Made in a function, so that it travels to the actor by value."""

    class Told(BaseTrainer):
        def _problem(self, unit: str) -> Any:
            problem = super()._problem(unit)
            loss: Callable[[Any, int], Any] = problem.loss

            def told(module: Any, global_step: int) -> Any:
                if unit == killed and global_step == KILLED_AT and not (folder / "killed").exists():
                    (folder / "killed").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                with (folder / unit).open("a") as file:
                    file.write(f"{global_step}\n")
                return loss(module, global_step)

            problem.loss = told
            return problem

    return Told


def steps_told(folder: Path, unit: str) -> list[int]:
    path = folder / unit
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_both_folders_load_through_transformers(undisturbed: tuple[Workspace, Manifest, Manifest]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

    workspace, _, made = undisturbed
    folder = workspace.cache.folder_of(made, LANGUAGE_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    logits_1TC = model(tokenizer("is there a 5?", return_tensors="pt")["input_ids"]).logits
    assert torch.isfinite(logits_1TC).all()
    folder = workspace.cache.folder_of(made, VISION_TOWER)
    pixels = AutoImageProcessor.from_pretrained(folder)(
        images=[torch.zeros(48, 48, 3, dtype=torch.uint8).numpy()], return_tensors="pt"
    )
    tower = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    assert tower(**pixels).last_hidden_state.shape == (1, 8, 3, 3)
    assert set(made.identity) == {"language_model_digest", "vision_tower_digest"}
    assert made.num_rows == 2 * SCHEDULE.num_steps
    assert workspace.store.list("base/checkpoints") == []


def test_the_second_time_nothing_is_trained_and_nothing_written(
    undisturbed: tuple[Workspace, Manifest, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset, made = undisturbed
    stored = workspace.store.list("base")

    def refuse(*_: object) -> None:
        raise AssertionError("an actor was asked for")

    monkeypatch.setattr(step, "run_units", refuse)
    assert made_base(dataset, workspace) == (made, True)
    assert workspace.store.list("base") == stored


@pytest.mark.parametrize("killed", [LANGUAGE_MODEL, VISION_TOWER])
def test_a_killed_training_commits_nothing_and_goes_on_from_its_checkpoint_to_the_same_bytes(
    killed: str,
    elsewhere: tuple[Workspace, Manifest],
    undisturbed: tuple[Workspace, Manifest, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace, dataset = elsewhere
    monkeypatch.setattr(step, "BaseTrainer", trainer_that_tells(tmp_path, killed))
    with pytest.raises(PlatformError, match=f"1 actors died over unit '{killed}'"):
        made_base(dataset, workspace)
    assert find_output(workspace.store, base_request(CONFIG, "tiny", dataset)) is None
    assert steps_told(tmp_path, killed) == list(range(KILLED_AT))
    progress = Counted()
    resumed, reused = made_base(dataset, replace(workspace, progress=progress))
    assert not reused
    assert steps_told(tmp_path, killed) == list(range(SCHEDULE.num_steps)), "no step of it is trained twice"
    assert progress.done[killed.replace("_", " ")] == SCHEDULE.num_steps
    assert resumed.draft == undisturbed[2].draft
    assert workspace.store.list("base/checkpoints") == workspace.store.list("base/journal") == []


def test_a_model_that_was_finished_is_not_trained_again(
    elsewhere: tuple[Workspace, Manifest],
    undisturbed: tuple[Workspace, Manifest, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One actor, so that the language model is noted before the tower's training is killed."""
    workspace, dataset = elsewhere
    one = CpuActorResources(num_actors=1, max_restarts=0)
    workspace = replace(workspace, profile=workspace.profile.model_copy(update={"base": one}))
    monkeypatch.setattr(step, "BaseTrainer", trainer_that_tells(tmp_path, VISION_TOWER))
    with pytest.raises(PlatformError, match="died over unit 'vision_tower'"):
        made_base(dataset, workspace)
    assert steps_told(tmp_path, LANGUAGE_MODEL) == list(range(SCHEDULE.num_steps))
    assert made_base(dataset, workspace)[0].draft == undisturbed[2].draft
    assert steps_told(tmp_path, LANGUAGE_MODEL) == list(range(SCHEDULE.num_steps))


def test_after_a_repair_only_the_damaged_model_is_trained_again(
    elsewhere: tuple[Workspace, Manifest],
    undisturbed: tuple[Workspace, Manifest, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shown to fail by looking at notes only, and not at what remains of the output."""
    workspace, dataset = elsewhere
    before, _ = made_base(dataset, workspace)
    part = next(part for part in before.parts if part.name == f"{VISION_TOWER}/model.safetensors")
    workspace.store.write(f"base/parts/{part.digest}", b"damaged")
    repair_store(workspace.store, verify_store(workspace.store), workspace.cache)
    monkeypatch.setattr(step, "BaseTrainer", trainer_that_tells(tmp_path, None))
    assert made_base(dataset, workspace)[0].draft == before.draft == undisturbed[2].draft
    assert steps_told(tmp_path, LANGUAGE_MODEL) == []
    assert steps_told(tmp_path, VISION_TOWER) == list(range(SCHEDULE.num_steps))


def test_damaged_pictures_are_named(elsewhere: tuple[Workspace, Manifest]) -> None:
    workspace, dataset = elsewhere
    (part,) = dataset.parts_of("images")
    path = workspace.store.folder / "ingest" / "parts" / part.digest  # type: ignore[attr-defined]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"ingest/parts/{part.digest}"):
        made_base(dataset, workspace)
    assert find_output(workspace.store, base_request(CONFIG, "tiny", dataset)) is None
