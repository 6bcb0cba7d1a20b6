"""The `base` step: the quickstart's own tower and language model, trained side by side and then frozen."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.digests import digest_json
from infra.disk import scratch_folder
from infra.errors import DataError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, upload_part
from infra.part_cache import PartCache
from infra.ray_board import pass_on, start_board
from infra.ray_pool import run_units
from infra.remaining import find_remaining
from infra.store import Store, open_store
from infra.workspace import Workspace
from training.base.config import BaseConfig

STEP = "base"
VERSION = 1
LANGUAGE_MODEL = "language_model"
VISION_TOWER = "vision_tower"
CHECKPOINTS_PER_TRAINING = 10
REPORT_EVERY_STEPS = 20
NUM_TOKENIZER_SCENES = 2000


def base_request(config: BaseConfig, name: str, dataset: Manifest) -> OutputRequest:
    inputs = {"dataset_digest": dataset.identity["dataset_digest"]}
    return OutputRequest(STEP, VERSION, name, config.model_dump(mode="json"), inputs)


def base(config: BaseConfig, dataset: Manifest, attempt: Attempt, workspace: Workspace) -> Draft:
    """Train what an earlier attempt did not finish. Each model goes on from its own newest checkpoint."""
    num_steps = {
        LANGUAGE_MODEL: config.language_model.schedule.num_steps,
        VISION_TOWER: config.tower.schedule.num_steps,
    }
    parts: dict[str, list[Part]] = {}
    units: dict[str, str] = {}
    for unit in num_steps:
        made = _made(unit, attempt)
        if made and all(attempt.holds(part) for part in made):
            parts[unit] = made
        else:
            units[unit] = unit
            workspace.progress.start(_label(unit), num_steps[unit], "steps")
    if units:
        board = start_board()
        resources = workspace.profile.base
        arguments = {
            "store_uri": attempt.store.uri,
            "cache_dir": str(workspace.cache.folder),
            "config": config.model_dump(mode="json"),
            "dataset": dataset.model_dump(mode="json"),
            "fingerprint": attempt.request.fingerprint,
            "threads": resources.threads_per_actor,
            "board": board,
        }

        def keep(unit: str, result: list[dict[str, Any]]) -> None:
            attempt.note(unit, {"parts": result})
            parts[unit] = [Part.model_validate(part) for part in result]

        run_units(BaseTrainer, arguments, units, resources, keep, lambda: pass_on(board, workspace.progress))
        for unit in units:  # after the last word of every actor
            workspace.progress.finish(_label(unit))
    return Draft(
        parts=[part for unit in sorted(parts) for part in parts[unit]],
        identity={f"{unit}_digest": _folder_digest(unit, found) for unit, found in sorted(parts.items())},
        counts={"rows_out": sum(num_steps.values())},
    )


def _made(unit: str, attempt: Attempt) -> list[Part]:
    """The unit's folder as an earlier attempt noted it, or as an output that was taken back had it."""
    if (noted := attempt.noted(unit)) is not None:
        return [Part.model_validate(part) for part in noted["parts"]]
    remaining = find_remaining(attempt.store, STEP, attempt.request.fingerprint)
    return [part for part in remaining.manifest.parts if part.name.startswith(f"{unit}/")] if remaining else []


class BaseTrainer:
    """Lives in a Ray actor: trains one of the two models from its newest checkpoint and uploads its folder."""

    def __init__(  # noqa: PLR0913  an actor is told everything at once
        self,
        store_uri: str,
        cache_dir: str,
        config: Mapping[str, Any],
        dataset: Mapping[str, Any],
        fingerprint: str,
        threads: int,
        board: Any,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.store: Store = open_store(store_uri)
        self.cache = PartCache(self.store, Path(cache_dir))
        self.config = BaseConfig.model_validate(config)
        self.dataset = Manifest.model_validate(dataset)
        self.fingerprint = fingerprint
        self.board = board

    def run(self, unit: str) -> list[dict[str, Any]]:
        import ray

        from training.base.loop import run_supervised
        from training.checkpoints import CheckpointFolder

        problem = self._problem(unit)
        checkpoints = CheckpointFolder(self.store, f"{STEP}/checkpoints/{self.fingerprint}/{unit}", keep=2)
        checkpoint, skipped = checkpoints.newest()
        for message in skipped:
            print(message)
        start = told = checkpoint.step if checkpoint else 0
        self.board.say.remote(_label(unit), start, "")

        def report(step: int, loss: float) -> None:
            nonlocal told
            is_last = step == problem.schedule.num_steps
            if step % REPORT_EVERY_STEPS == 0 or is_last:
                said = self.board.say.remote(_label(unit), step - told, f"loss {loss:.3f}")
                told = step
                if is_last:
                    ray.get(said)  # once the result is there, nobody asks the board any more

        module = run_supervised(
            problem,
            resume_state=checkpoint.tensors["state"] if checkpoint else None,
            start_step=start,
            save_every_steps=max(1, problem.schedule.num_steps // CHECKPOINTS_PER_TRAINING),
            save=lambda step, state: checkpoints.save(step, {"state": state}, {}),
            report=report,
        )
        with scratch_folder("base") as folder:
            problem.export(module, folder)
            files = sorted(path for path in folder.iterdir() if path.is_file())
            parts = [upload_part(self.store, STEP, path, "file", 0, name=f"{unit}/{path.name}") for path in files]
        return [part.model_dump() for part in parts]

    def _problem(self, unit: str) -> Any:
        if unit == LANGUAGE_MODEL:
            from training.base.language_model import LanguageModelProblem
            from training.base.text import tokenizer_text
            from training.base.tokenizer import train_tokenizer

            text = tokenizer_text(self.config.seed, NUM_TOKENIZER_SCENES)
            tokenizer = train_tokenizer(text, self.config.language_model.vocab_tokens)
            return LanguageModelProblem(self.config.language_model, self.config.seed, tokenizer)
        from training.base.tower import TowerProblem

        images, scenes = self._train_scenes()
        return TowerProblem(self.config.tower, self.config.seed, images, scenes)

    def _train_scenes(self) -> tuple[list[Any], list[Any]]:
        """(uint8 pictures, what is in them) of the train split, by image id."""
        import numpy as np
        from PIL import Image

        from data_prep.dataset import read_examples, read_images
        from data_prep.sources.scene_text import Scene

        found = {
            example.image_id: Scene.from_json(example.attributes["scene"])
            for example in read_examples(self.dataset, self.cache, ["train"])
            if "scene" in example.attributes
        }
        if not found:
            raise DataError(
                "the train split has no digit scenes; expected some, since `base` learns its tower from them. "
                "Remove the base section and name a vision tower and a language model instead."
            )
        pictures = {
            image_id: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            for part in self.dataset.parts_of("images")
            for image_id, data in read_images(part, self.cache)
            if image_id in found
        }
        ordered = sorted(found)
        return [pictures[image_id] for image_id in ordered], [found[image_id] for image_id in ordered]


def _label(unit: str) -> str:
    return unit.replace("_", " ")


def _folder_digest(unit: str, parts: list[Part]) -> str:
    """The same digest as that of a local folder with these files."""
    return digest_json(sorted([part.name.removeprefix(unit + "/"), part.digest] for part in parts))
