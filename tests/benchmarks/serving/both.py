"""Two servers of one registered version, side by side."""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from load import Request, put_load
from results import Runs
from served_model import NAME, ServedModel, serving
from servers import free_port, server
from tiny_run import TinyRun

PACKAGES = ("torch", "transformers", "mlflow", "ray", "uvicorn")


@dataclass(frozen=True)
class ServerSide:
    """One server, and how it is asked for captions."""

    name: str
    command: list[str]
    url: str
    headers: dict[str, str]
    requests: list[Request]
    process: psutil.Process
    caption_of: Callable[[bytes], str]
    expected: list[str]

    def asking(self, clients: int, num_requests: int) -> Callable[[], dict[str, Any]]:
        return lambda: self.ask(clients, num_requests)

    def ask(self, clients: int, num_requests: int) -> dict[str, Any]:
        """Raises where a caption is not that of the version."""
        requests = [self.requests[number % len(self.requests)] for number in range(num_requests)]
        cpu = self._cpu_seconds()
        load = put_load(self.url, requests, clients, self.headers)
        cpu_seconds = self._cpu_seconds() - cpu
        for answer in load.answers:
            found = self.caption_of(answer.body) if answer.status == 200 else answer
            if found != self.expected[answer.number % len(self.expected)]:
                raise RuntimeError(f"{self.name} answered {found!r}")
        percents = {f"p{percent}": load.percentile_seconds(percent) for percent in (50, 95)}
        return {"requests": num_requests, "seconds": load.seconds, "cpu_seconds": cpu_seconds, **percents}

    def rates(self, asked: dict[str, Any], answers: Sequence[dict[str, Any]]) -> Runs:
        runs = [round(answer["requests"] / answer["seconds"], 4) for answer in answers]
        by_cpu = [round(answer["requests"] / answer["cpu_seconds"], 4) for answer in answers]
        return Runs("requests/s", runs, self.command, asked, _versions(), by_cpu)

    def milliseconds(self, asked: dict[str, Any], answers: Sequence[dict[str, Any]], percent: str) -> Runs:
        return Runs("ms", [round(1000 * answer[percent], 2) for answer in answers], self.command, asked, _versions())

    def _cpu_seconds(self) -> float:
        """Of the server and of everything it started."""
        everyone = [self.process, *self.process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in everyone)


@contextmanager
def both_servers(root: Path) -> Iterator[list[ServerSide]]:
    tiny = TinyRun.of(root / "tiny")
    model = ServedModel(tiny.var)
    pictures = model.pictures()
    texts = [base64.b64encode(picture).decode() for picture in pictures]
    expected = _captions(model, pictures)
    with serving(model, root / "frostline.log") as ours, _mlflow(model, root / "mlflow.log") as (command, url, process):
        told = [str(part) for part in ours.process.args]  # type: ignore[union-attr]
        bodies = [json.dumps({"image": text}).encode() for text in texts]
        frostline = ServerSide(
            "frostline", told, ours.url, ours.headers, [Request("/v1/caption", body) for body in bodies],
            psutil.Process(ours.pid), lambda body: str(json.loads(body)["caption"]), expected,
        )  # fmt: skip
        rows = [json.dumps({"dataframe_records": [{"image": text, "prompt": ""}]}).encode() for text in texts]
        mlflow = ServerSide(
            "mlflow", command, url, {}, [Request("/invocations", body) for body in rows],
            process, lambda body: str(json.loads(body)["predictions"][0]), expected,
        )  # fmt: skip
        yield [frostline, mlflow]


@contextmanager
def _mlflow(model: ServedModel, log: Path) -> Iterator[tuple[list[str], str, psutil.Process]]:
    """As its documentation starts it, in the environment that is there."""
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FROSTLINE_VAR_DIR": str(model.var),
        "MLFLOW_TRACKING_URI": model.mlflow_uri,
        "FROSTLINE_STORE_URI": model.workspace.store.uri,
        "OMP_NUM_THREADS": "1",
    }
    command = ["mlflow", "models", "serve", "-m", f"models:/{NAME}/1", "--env-manager", "local", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with server(command, environment, log, f"{url}/ping"):
        (process,) = [
            one for one in psutil.Process().children() if str(port) in " ".join(one.cmdline()) and one.is_running()
        ]
        yield command, url, process


def _captions(model: ServedModel, pictures: list[bytes]) -> list[str]:
    from training.predictor import Predictor, fetch_package

    cache_dir = model.workspace.cache.folder
    folder = fetch_package(model.registry, model.registry.version(NAME, "1"), cache_dir)
    return Predictor.load(folder, cache_dir, model.workspace.store, threads=1).caption(pictures)


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}
