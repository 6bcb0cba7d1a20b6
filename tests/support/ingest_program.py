"""An ingest to be run in a process of its own, which says what became of it and which images it read."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401  for the forge: a child imports nothing more

from data_prep import decode_process, decode_worker, reading
from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from infra import log  # noqa: F401
from infra.errors import FrostlineError
from infra.outputs import ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.record import git_commit
from infra.settings import Settings, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace

SHARD = 3
PROFILE = load_profile("laptop", ["ingest.num_processes=1"])
MEMORY_BYTES = 8 * 2**30
"""A forked decode worker has the address space of its parent."""
git_commit()
decode_worker._import_decoders()


class ForkedWorker:
    """What `Popen` is to the decode pool, without the half second of a new interpreter: the same code in a fork."""

    def __init__(self, command: list[str], **_: Any) -> None:
        (images, self_images), (self_answers, answers) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(images, 0)
            os.dup2(answers, 1)
            os.closerange(3, 1024)
            sys.stdin, sys.argv = os.fdopen(0), command[3:]
            try:
                decode_worker.main()
            finally:
                os._exit(1)
        os.close(images)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(self_images, "wb"), os.fdopen(self_answers, "rb")

    def kill(self) -> None:
        os.kill(self.pid, 9)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def race(runs: list[list[Any]]) -> None:
    """`run` with each of these arguments, all at the same time, each in a process of its own."""
    gate, latch = os.pipe()
    racers = [_racer(gate, latch, arguments) for arguments in runs]
    os.close(latch)
    statuses = [os.waitpid(racer, 0)[1] for racer in racers]
    assert not any(statuses), statuses


def _racer(gate: int, latch: int, arguments: list[Any]) -> int:
    racer = os.fork()
    if racer:
        return racer
    try:
        os.close(latch)
        os.read(gate, 1)  # until the last holder of the latch lets go of it
        run(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def run(folder: str, sources: list[dict[str, Any]], answer: str, store_dir: str = "") -> None:
    """Ingest into `folder`. `{answer}.json` says the draft or the error, `{answer}.read` every image that was read."""
    told = os.open(f"{answer}.read", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    digest_bytes = reading.digest_bytes

    def read(data: bytes) -> str:
        image_id = digest_bytes(data)
        os.write(told, f"{image_id}\n".encode())
        return image_id

    reading.digest_bytes = read
    decode_process.subprocess = SimpleNamespace(Popen=ForkedWorker, PIPE=subprocess.PIPE)  # type: ignore[assignment]
    store = LocalStore(Path(store_dir or f"{folder}/store"))
    workspace = Workspace(
        Settings(var_dir=Path(folder)), PROFILE, store, PartCache(store, Path(folder, "cache")), Silent()
    )
    more = {"images_per_shard": SHARD, "max_quarantined_fraction": 1, "max_image_memory_bytes": MEMORY_BYTES}
    config = IngestConfig.model_validate({"sources": sources, **more})
    try:
        request = ingest_request(config, "demo", store)
        made, _ = ensure_output(store, request, lambda attempt: ingest(config, attempt, workspace), {})
        draft = made.draft.model_dump(mode="json")
        found = {"fingerprint": made.fingerprint, "draft": draft, "manifest": made.digest}
    except FrostlineError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    os.write(os.open(f"{answer}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), json.dumps(found).encode())
