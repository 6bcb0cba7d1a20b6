"""A dataset continues the newest one of its recipe: only what is new is read, and the rows are those from scratch."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataset_rows import captioned, rows_of

from data_prep import reading
from data_prep.dataset import read_examples
from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from data_prep.sources.jsonl import Jsonl
from infra.errors import PlatformError
from infra.outputs import Manifest, ensure_output
from infra.part_cache import PartCache
from infra.store import LocalStore
from infra.workspace import Workspace

SHARD = 4
ALL = ("train", "val", "test")


class Feed:
    """A JSONL source in a folder of its own, whose lines and pictures a test changes."""

    def __init__(self, folder: Path, make_picture: Callable[[int], bytes]) -> None:
        self.folder = folder
        self.make_picture = make_picture
        self.lines: list[dict[str, Any]] = []
        self.clock = 0
        (folder / "images").mkdir(parents=True)

    def picture(self, name: str, number: int) -> None:
        path = self.folder / "images" / name
        path.write_bytes(self.make_picture(number))
        self.touch(path)

    def write(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """The source, after its file has these lines. The file is left alone where they are the same."""
        path = self.folder / "lines.jsonl"
        if lines != self.lines or not path.exists():
            self.lines = list(lines)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            self.touch(path)
        return {"kind": "jsonl", "path": str(path), "images": str(self.folder / "images")}

    def touch(self, path: Path) -> None:
        """A clock of its own: two changes within one tick of the file system's would look like none."""
        self.clock += 1
        os.utime(path, ns=(0, self.clock * 10**9))


@pytest.fixture
def feed(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Callable[..., Feed]:
    def make(name: str = "feed", num_pictures: int = 0) -> Feed:
        made = Feed(tmp_path / name, make_picture)
        for number in range(num_pictures):
            made.picture(f"{number}.png", number)
        return made

    return make


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every image that an ingest reads."""
    found: list[bytes] = []
    digest = reading.digest_bytes
    monkeypatch.setattr(reading, "digest_bytes", lambda data: (found.append(data), digest(data))[1])
    return found


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The annotation file of every source that an ingest parses."""
    found: list[str] = []
    rows = Jsonl.rows
    monkeypatch.setattr(Jsonl, "rows", lambda self, file: (found.append(self.config.path), rows(self, file))[1])
    return found


Ingested = Callable[..., Manifest]
MakeFeed = Callable[..., Feed]


def digests(manifest: Manifest, *kinds: str) -> set[str]:
    return {part.digest for part in manifest.parts if part.kind in kinds}


def from_scratch(workspace: Workspace, folder: Path, *sources: dict[str, Any], **more: Any) -> Manifest:
    """The dataset of these sources in a store that has seen nothing."""
    store = LocalStore(folder / "store")
    fresh = replace(workspace, store=store, cache=PartCache(store, folder / "cache"))
    config = IngestConfig.model_validate({"sources": list(sources), "images_per_shard": SHARD, **more})
    request = ingest_request(config, "demo", store)
    return ensure_output(store, request, lambda attempt: ingest(config, attempt, fresh), {})[0]


def assert_same_dataset(found: Manifest, expected: Manifest) -> None:
    assert found.identity == expected.identity
    assert found.counts == expected.counts
    assert found.facts == expected.facts


def test_ten_increments_give_the_dataset_from_scratch_and_read_each_image_once(
    feed: MakeFeed, ingested: Ingested, workspace: Workspace, tmp_path: Path, images_read: list[bytes]
) -> None:
    growing = feed(num_pictures=0)
    earlier: set[str] = set()
    for step in range(1, 11):
        for number in range(3 * step - 3, 3 * step):
            growing.picture(f"{number}.png", number)
        source = growing.write(captioned(range(3 * step)))
        manifest = ingested(source, images_per_shard=SHARD)
        assert len(images_read) == 3 * step
        now = digests(manifest, "images", "image_index", "examples")
        assert earlier <= now, "a shard of an earlier increment changed"
        earlier = now
    assert_same_dataset(manifest, from_scratch(workspace, tmp_path / "scratch", source))
    assert len(read_examples(manifest, workspace.cache, ALL)) == 30 - manifest.counts["excluded"]


def test_an_unchanged_file_is_not_opened_again(
    feed: MakeFeed, ingested: Ingested, files_read: list[str], images_read: list[bytes]
) -> None:
    one, two = feed("one", 6), feed("two", 6)
    first = one.write(captioned(range(6)))
    ingested(first, images_per_shard=SHARD)
    files_read.clear()
    images_read.clear()
    second = two.write([{"image": f"{n}.png", "caption": f"again {n}"} for n in range(6)])
    both = ingested(first, second, images_per_shard=SHARD)
    assert files_read == [second["path"]]
    assert (both.counts["rows_in"], both.counts["rows_out"], both.counts["images"]) == (12, 12, 6)


def test_a_changed_row_touches_only_its_shard_and_reads_no_image(
    feed: MakeFeed, ingested: Ingested, images_read: list[bytes], workspace: Workspace, tmp_path: Path
) -> None:
    growing = feed(num_pictures=12)
    lines = captioned(range(12))
    before = ingested(growing.write(lines), images_per_shard=SHARD)
    images_read.clear()
    lines[5] = {"image": "5.png", "caption": "another text"}
    source = growing.write(lines)
    after = ingested(source, images_per_shard=SHARD)
    assert images_read == []
    assert digests(before, "images") == digests(after, "images")
    assert len(digests(before, "examples") - digests(after, "examples")) == 1
    assert len(digests(after, "examples") - digests(before, "examples")) == 2, "what is left, and the new row"
    assert_same_dataset(after, from_scratch(workspace, tmp_path / "scratch", source))


def test_a_withdrawn_row_takes_its_image_with_it_and_touches_only_its_shard(
    feed: MakeFeed, ingested: Ingested, workspace: Workspace, tmp_path: Path
) -> None:
    growing = feed(num_pictures=12)
    lines = captioned(range(12))
    before = ingested(growing.write(lines), images_per_shard=SHARD)
    del lines[5]
    source = growing.write(lines)
    after = ingested(source, images_per_shard=SHARD)
    for kind in ("images", "image_index", "examples"):
        assert len(digests(before, kind) - digests(after, kind)) == 1
        assert len(digests(after, kind)) == 3
    assert after.counts["images"] == 11
    assert_same_dataset(after, from_scratch(workspace, tmp_path / "scratch", source))


def test_a_changed_picture_is_read_again_and_the_old_one_goes(
    feed: MakeFeed, ingested: Ingested, images_read: list[bytes], make_picture: Callable[[int], bytes]
) -> None:
    growing = feed(num_pictures=6)
    source = growing.write(captioned(range(6)))
    ingested(source, images_per_shard=SHARD)
    images_read.clear()
    growing.picture("2.png", 77)
    after = ingested(source, images_per_shard=SHARD)
    assert images_read == [make_picture(77)]
    assert after.counts["images"] == 6


def test_an_image_of_two_sources_is_stored_once_and_stays_when_the_first_source_goes(
    feed: MakeFeed, ingested: Ingested, images_read: list[bytes], workspace: Workspace, tmp_path: Path
) -> None:
    one, two = feed("one", 6), feed("two", 3)
    first = one.write(captioned(range(6)))
    second = two.write([{"image": f"{n}.png", "caption": f"again {n}"} for n in range(3)])
    both = ingested(first, second, images_per_shard=SHARD)
    assert both.counts["images"] == 6
    images_read.clear()
    left = ingested(second, images_per_shard=SHARD)
    assert images_read == []
    assert (left.counts["rows_in"], left.counts["images"]) == (3, 3)
    assert_same_dataset(left, from_scratch(workspace, tmp_path / "scratch", second))


def test_a_duplicate_counts_again_when_the_row_that_counted_is_withdrawn(feed: MakeFeed, ingested: Ingested) -> None:
    one, two = feed("one", 4), feed("two", 4)
    first, second = one.write(captioned(range(4))), two.write(captioned(range(2)))
    both = ingested(first, second, images_per_shard=SHARD)
    assert (both.counts["rows_out"], both.counts["duplicates"]) == (4, 2)
    left = ingested(second, images_per_shard=SHARD)
    assert (left.counts["rows_in"], left.counts["rows_out"], left.counts["duplicates"]) == (2, 2, 0)


def test_of_rows_that_differ_in_attributes_only_the_same_one_counts_in_any_order(
    feed: MakeFeed, ingested: Ingested, workspace: Workspace, tmp_path: Path
) -> None:
    """They have one example id. When the first one counted, the dataset digest followed the order of the sources."""
    plain, marked = feed("plain", 3), feed("marked", 3)
    first = plain.write(captioned(range(3)))
    second = marked.write([line | {"attributes": {"seen": "twice"}} for line in captioned(range(3))])
    turned = from_scratch(workspace, tmp_path / "turned", second, first)
    assert turned.counts["duplicates"] == 3
    assert from_scratch(workspace, tmp_path / "scratch", first, second).identity == turned.identity
    ingested(first)
    assert ingested(first, second).identity == turned.identity


def test_an_image_claimed_for_two_splits_is_left_out_whatever_came_first(
    feed: MakeFeed, ingested: Ingested, workspace: Workspace
) -> None:
    one, two = feed("one", 4), feed("two", 1)
    lines = [line | {"split": "train"} for line in captioned(range(4))]
    first = one.write(lines)
    second = two.write([{"image": "0.png", "caption": "elsewhere", "split": "test"}])
    before = ingested(first, max_quarantined_fraction=0.5)
    grown = ingested(first, second, max_quarantined_fraction=0.5)
    turned = ingested(second, first, max_quarantined_fraction=0.5)
    assert before.counts["rows_out"] == 4
    assert grown.identity == turned.identity
    assert (grown.counts["rows_out"], grown.counts["quarantined"]) == (3, 2)
    assert grown.facts["statistics"]["quarantined_by_reason"] == {"split_conflict": 2}
    assert {example.split for example in read_examples(grown, workspace.cache, ALL)} == {"train"}


def test_the_same_row_twice_is_known_twice(feed: MakeFeed, ingested: Ingested, images_read: list[bytes]) -> None:
    growing = feed(num_pictures=4)
    lines = [*captioned(range(3)), *captioned(range(3))]
    before = ingested(growing.write(lines))
    assert (before.counts["rows_in"], before.counts["duplicates"]) == (6, 3)
    images_read.clear()
    after = ingested(growing.write([*captioned(range(3)), *captioned(range(2)), *captioned(range(3, 4))]))
    assert (after.counts["rows_in"], after.counts["duplicates"]) == (6, 2)
    assert len(images_read) == 1


def test_the_same_questions_twice_are_duplicates_and_all_that_count_are_read(
    feed: MakeFeed, ingested: Ingested, workspace: Workspace
) -> None:
    """Shards of equal parts need names of their own: with one name, the rows that count were masked with the others."""
    pictures, asked, copied = feed("one", 4), feed("two", 4), feed("three", 4)
    captions = pictures.write(captioned(range(4)))
    questions = [{"image": f"{n}.png", "question": "which?", "answer": str(n)} for n in range(4)]
    ingested(captions)
    ingested(captions, asked.write(questions))
    grown = ingested(captions, asked.write(questions), copied.write(questions))
    assert (grown.counts["rows_out"], grown.counts["duplicates"]) == (8, 4)
    assert len(read_examples(grown, workspace.cache, ALL)) == 8


def test_a_picture_that_changes_within_one_tick_of_the_clock_is_read_again(
    feed: MakeFeed, ingested: Ingested, make_picture: Callable[[int], bytes], images_read: list[bytes]
) -> None:
    """Tools that build archives and images set all times to the same."""
    growing = feed(num_pictures=2)
    source = growing.write(captioned(range(2)))
    path = growing.folder / "images" / "1.png"
    os.utime(path, ns=(0, 0))
    ingested(source)
    images_read.clear()
    changed = make_picture(1) + b"longer"
    path.write_bytes(changed)
    os.utime(path, ns=(0, 0))
    ingested(source)
    assert images_read == [changed]


def test_one_file_named_in_two_ways_is_two_sources(
    feed: MakeFeed, ingested: Ingested, workspace: Workspace, tmp_path: Path
) -> None:
    growing = feed(num_pictures=2)
    source = growing.write(captioned(range(2)))
    again = {**source, "path": str(growing.folder / "*.jsonl")}
    ingested(source)
    both = ingested(source, again)
    assert (both.counts["rows_in"], both.counts["duplicates"]) == (4, 2)
    assert_same_dataset(both, from_scratch(workspace, tmp_path / "scratch", source, again))


def test_sources_that_change_while_they_are_read_give_no_output(
    feed: MakeFeed, ingested: Ingested, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint would name files that nobody has read."""
    growing = feed(num_pictures=4)
    source = growing.write(captioned(range(4)))
    rows = Jsonl.rows

    def changing(self: Jsonl, file: Any) -> Any:
        growing.picture("3.png", 33)
        return rows(self, file)

    with monkeypatch.context() as patched:
        patched.setattr(Jsonl, "rows", changing)
        with pytest.raises(PlatformError, match=r"the sources changed while they were read \(3\.png\)"):
            ingested(source)
    assert not [key for key in store.list("ingest") if key.endswith("manifest.json")]
    assert ingested(source).counts["images"] == 4


def test_a_missing_picture_that_appears_is_read(feed: MakeFeed, ingested: Ingested, images_read: list[bytes]) -> None:
    growing = feed(num_pictures=5)
    source = growing.write(captioned(range(6)))
    before = ingested(source, max_quarantined_fraction=0.5)
    assert before.facts["statistics"]["quarantined_by_reason"] == {"missing_file": 1}
    images_read.clear()
    growing.picture("5.png", 5)
    after = ingested(source, max_quarantined_fraction=0.5)
    assert (after.counts["quarantined"], after.counts["rows_out"]) == (0, 6)
    assert len(images_read) == 1


@pytest.mark.parametrize("seed", range(4))
def test_any_history_of_changes_ends_with_the_dataset_from_scratch(
    seed: int, feed: MakeFeed, ingested: Ingested, workspace: Workspace, tmp_path: Path
) -> None:
    """Rows and pictures come, go and change over two sources; the same recipe in an empty store agrees each time."""
    rng = random.Random(seed)
    feeds = [feed("one", 8), feed("two", 8)]
    lines = [captioned(range(4)), captioned(range(2, 6))]
    for round_number in range(6):
        for source, rows in zip(feeds, lines, strict=True):
            for _ in range(rng.randrange(4)):
                number = rng.randrange(12)
                change = rng.randrange(5)
                if change == 0:
                    more = rng.choice([{}, {}, {"attributes": {"a": "b"}}, {"split": "test"}])
                    rows.append({"image": f"{number}.png", "caption": f"text {rng.randrange(3)}", **more})
                elif change == 1 and len(rows) > 2:
                    rows.pop(rng.randrange(len(rows)))
                elif change == 2:
                    source.picture(f"{number}.png", rng.randrange(20))
                elif change == 3 and rows:
                    rows.append(rng.choice(rows))
                else:
                    rows[rng.randrange(len(rows))] = {"image": f"{number}.png", "question": "which?", "answer": "a"}
        written = [source.write(rows) for source, rows in zip(feeds, lines, strict=True)]
        chosen = rng.choice([written, written, written, written[:1], [*written, written[1]]])
        settings = {"images_per_shard": SHARD, "max_quarantined_fraction": 1.0}
        found = ingested(*chosen, **settings)
        expected = from_scratch(workspace, tmp_path / f"scratch-{round_number}", *chosen, **settings)
        assert_same_dataset(found, expected)
        fresh = LocalStore(tmp_path / f"scratch-{round_number}" / "store")
        read = read_examples(found, workspace.cache, ALL)
        assert read == read_examples(expected, PartCache(fresh, tmp_path / "reader"), ALL)
        ids = [row["image_id"] for row in rows_of(found, "images", workspace)]
        assert len(ids) == len(set(ids)) == found.counts["images"]
