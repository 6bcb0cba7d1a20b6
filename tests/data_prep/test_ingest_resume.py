"""A killed ingest starts again behind its last shard, and gives what an undisturbed one gives."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dataset_rows import captioned

from data_prep import ingest as ingest_step
from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from data_prep.reading import ImageReader, ReadRow
from data_prep.shard_writer import NewRow
from infra.errors import IntegrityError
from infra.outputs import Manifest, ensure_output, find_output
from infra.store import LocalStore
from infra.workspace import Workspace

Source = dict[str, Any]
WriteSource = Callable[..., Source]
Ingested = Callable[..., Manifest]


KILLED_INGEST = """
import os, sys, json
from pathlib import Path
from data_prep import ingest as step
from infra.outputs import ensure_output
from infra.part_cache import PartCache
from infra.progress import Silent
from infra.settings import Settings, load_profile
from infra.store import LocalStore
from infra.workspace import Workspace
from data_prep.ingest_config import IngestConfig
from data_prep.reading import ImageReader

folder, source, kill_at = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
config = IngestConfig.model_validate({"sources": [source], "images_per_shard": 4, "max_quarantined_fraction": 1})
store = LocalStore(folder / "store")
workspace = Workspace(Settings(var_dir=folder), load_profile("laptop"), store, PartCache(store, folder / "c"), Silent())
read = ImageReader.read

def count(self, new):
    if new.row.row == kill_at:
        os.kill(os.getpid(), 9)
    return read(self, new)

ImageReader.read = count
request = step.ingest_request(config, "demo", store)
ensure_output(store, request, lambda attempt: step.ingest(config, attempt, workspace), {})
"""


def test_an_ingest_killed_after_its_first_shards_resumes_and_gives_the_same_dataset(
    write_source: WriteSource, ingested: Ingested, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    lines = [
        *captioned(range(6)),
        *captioned(range(3)),
        {"image": "lost.png", "caption": "a"},
        *captioned(range(6, 24)),
    ]
    source = write_source(lines, 24)
    killed_dir = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_INGEST, str(killed_dir), json.dumps(source), "24"]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    settings = {"images_per_shard": 4, "max_quarantined_fraction": 1}
    undisturbed = ingested(source, **settings)

    killed = LocalStore(killed_dir / "store")
    assert not [key for key in killed.list("") if key.endswith("manifest.json")]
    num_shards = len([key for key in killed.list("") if "/journal/" in key])
    assert num_shards >= 2, "reading runs ahead by a window of one shard and a batch"
    read: list[int] = []
    read_image = ImageReader.read
    monkeypatch.setattr(ImageReader, "read", lambda self, new: (read.append(new.row.row), read_image(self, new))[1])
    config = IngestConfig.model_validate({"sources": [source], **settings})
    resumed_in = Workspace(
        workspace.settings, workspace.profile, killed, type(workspace.cache)(killed, tmp_path / "c"), workspace.progress
    )
    resumed, _ = ensure_output(
        killed, ingest_request(config, "demo", killed), lambda attempt: ingest(config, attempt, resumed_in), {}
    )
    assert resumed.draft == undisturbed.draft
    behind = 12 + 4 * (num_shards - 2)
    assert read == list(range(behind, len(lines))), "it starts behind the last noted shard"


@pytest.mark.parametrize("fail_at", [0, 3, 4, 7, 11])
def test_an_exception_at_any_row_costs_one_shard_at_most(
    fail_at: int, write_source: WriteSource, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two sources, where the resumed position is counted over both."""
    one, two = write_source(captioned(range(6)), 6, "one"), write_source(captioned(range(4, 10)), 10, "two")
    config = IngestConfig.model_validate({"sources": [one, two], "images_per_shard": 3})
    request = ingest_request(config, "demo", workspace.store)
    added = Counter[tuple[str, int]]()
    read = ImageReader.read

    def failing(self: ImageReader, new: NewRow) -> tuple[ReadRow, bytes | None]:
        if sum(added.values()) == fail_at and not added["failed", 0]:
            added["failed", 0] += 1
            raise RuntimeError("injected")
        added[new.uri, new.row.row] += 1
        return read(self, new)

    monkeypatch.setattr(ImageReader, "read", failing)
    with pytest.raises(RuntimeError):
        ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})
    assert find_output(workspace.store, request) is None
    manifest, _ = ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})
    rows = {name: manifest.counts[name] for name in ("rows_in", "rows_out", "duplicates", "quarantined", "images")}
    assert rows == {"rows_in": 12, "rows_out": 10, "duplicates": 2, "quarantined": 0, "images": 10}
    assert sum(count - 1 for count in added.values()) <= 5, "one shard of three images, and its duplicates"


def test_a_shard_of_an_unfinished_attempt_that_is_damaged_is_named_and_its_remedy_works(
    write_source: WriteSource, workspace: Workspace, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(captioned(range(6)), 6)
    config = IngestConfig.model_validate({"sources": [source], "images_per_shard": 2})
    request = ingest_request(config, "demo", workspace.store)

    def attempt_it() -> Manifest:
        return ensure_output(store, request, lambda attempt: ingest(config, attempt, workspace), {})[0]

    def failing(*_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(ingest_step, "draft_of", failing)
        with pytest.raises(RuntimeError):
            attempt_it()
    stored = sorted((store.folder / "ingest" / "parts").iterdir())
    parts = [part for part in stored if "bytes" not in pq.read_schema(part).names]  # ingest reads no images again
    assert len(parts) == 6
    sizes = {part: part.stat().st_size for part in parts}
    for part in parts:
        os.truncate(part, sizes[part] // 2)
        with pytest.raises(IntegrityError, match=part.name):
            attempt_it()
        part.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(ingest_step, "draft_of", failing)
            with pytest.raises(RuntimeError):
                attempt_it()
        assert part.stat().st_size == sizes[part]
        for cached in workspace.cache.folder.glob("parts/*"):
            cached.unlink()
    assert attempt_it().counts["rows_out"] == 6
