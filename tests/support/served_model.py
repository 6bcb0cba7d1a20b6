"""More versions of a model that a run registered, and servers of it. Each version answers in its own way."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tiny_run import FROSTLINE

from data_prep.dataset import images_by_id, read_examples
from data_prep.pretrained import PretrainedRef
from infra.digests import digest_file
from infra.outputs import Manifest, OutputRequest, manifest_key, read_manifest, upload_part
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Settings, load_profile
from infra.store import open_store
from infra.tracking import ModelVersion, Registry
from infra.workspace import Workspace
from training.version import VersionParts, ensure_version

NAME = "tiny"
TOKEN = "a-token-of-the-tests-only"
NOISE = 0.3


class ServedModel:
    """The tiny model in a `var` of its own."""

    def __init__(self, var: Path, mlflow_uri: str | None = None) -> None:
        self.var = var
        self.mlflow_uri = mlflow_uri or f"sqlite:///{var}/mlflow/mlflow.db"
        settings = Settings(var_dir=var, MLFLOW_TRACKING_URI=self.mlflow_uri)  # type: ignore[call-arg]
        store = open_store(settings.store)
        cache = PartCache(store, settings.cache)
        self.workspace = Workspace(settings, load_profile("laptop"), store, cache, Silent())
        self.registry = Registry(self.mlflow_uri)

    def manifest(self, step: str) -> Manifest:
        tags = self.registry.version(NAME, "1").tags
        found = read_manifest(self.workspace.store, manifest_key(step, tags[f"frostline.{step}_fingerprint"]))
        assert found is not None
        return found

    def pictures(self) -> list[bytes]:
        dataset, cache = self.manifest("ingest"), self.workspace.cache
        image_ids = {example.image_id for example in read_examples(dataset, cache, ["test"])}
        found = images_by_id(dataset, image_ids, cache)
        return [found[image_id] for image_id in sorted(image_ids)]

    def add_version(self, seed: int) -> ModelVersion:
        """The first version's parameters with noise: other answers, registered like any training's."""
        import torch
        from safetensors.torch import load_file, save_file

        store, cache, train = self.workspace.store, self.workspace.cache, self.manifest("train")
        (part,) = train.parts_of("trainables")
        torch.manual_seed(seed)
        tensors = {
            name: value + NOISE * value.std(correction=0) * torch.randn_like(value)
            for name, value in load_file(cache.path("train", part)).items()
        }
        with tempfile.TemporaryDirectory() as folder:
            save_file(tensors, Path(folder) / "weights")
            digest = digest_file(Path(folder) / "weights")
            noisy = upload_part(store, "train", Path(folder) / "weights", "trainables", len(tensors), name=part.name)
        inputs = {**train.inputs, "noise": str(seed)}
        request = OutputRequest("train", train.step_version, train.name, train.config, inputs)
        draft = train.draft.model_copy(update={"parts": [noisy], "identity": {"model_digest": digest}})
        fields = {name: getattr(train, name) for name in Manifest.model_fields}
        changed = Manifest(**fields | {"draft": draft, "inputs": inputs, "fingerprint": request.fingerprint})
        store.create(manifest_key("train", changed.fingerprint), changed.model_dump_json().encode())
        tower, language = PretrainedRef(base="vision_tower"), PretrainedRef(base="language_model")
        parts = VersionParts(
            self.manifest("ingest"), self.manifest("featurize"), changed, self.manifest("base"), tower, language
        )
        return ensure_version(self.registry, NAME, parts, self.manifest("evaluate"), self.workspace)

    def move_champion(self, version: str) -> None:
        self.registry.set_alias(NAME, "champion", version)


@dataclass(frozen=True)
class Server:
    """A running `frostline serve`."""

    url: str
    pid: int
    process: subprocess.Popen[str]
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {TOKEN}"}


@contextmanager
def serving(
    model: ServedModel,
    log: Path,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    uri: str = f"models:/{NAME}@champion",
) -> Iterator[Server]:
    """`frostline serve` on a free port until the block ends, with the tests' token unless `variables` say otherwise."""
    environment = {
        **os.environ,
        "FROSTLINE_VAR_DIR": str(model.var),
        "MLFLOW_TRACKING_URI": model.mlflow_uri,
        "FROSTLINE_SERVE_TOKEN": TOKEN,
        **(variables or {}),
    }
    command = [FROSTLINE, "serve", uri, "--port", "0", "--json", *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    try:
        found = _first_line(process, log)
        yield Server(found["url"], found["pid"], process, log)
        _stop(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _stop(process: subprocess.Popen[str]) -> None:
    """As an operator does. It ends well, and nothing that it started outlives it."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, alive


def _first_line(process: subprocess.Popen[str], log: Path, timeout_seconds: float = 240) -> dict[str, Any]:
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stdout], [], [], 0.5)[0] and (line := process.stdout.readline()):
            found: dict[str, Any] = json.loads(line)
            return found
    raise AssertionError(f"the server did not start ({process.poll()}):\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
    print(ServedModel(Path(sys.argv[1])).add_version(int(sys.argv[2])).version)
