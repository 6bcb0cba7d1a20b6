"""A disk that is full, or read-only, at each write point: one clear error, nothing published, and a retry works."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disk import SmallDisk, small_disk

from infra.digests import digest_file
from infra.errors import ConfigError, FrostlineError, PlatformError
from infra.outputs import Attempt, Draft, Manifest, OutputRequest, Part, ensure_output, find_output
from infra.part_cache import PartCache
from infra.store import LocalStore
from infra.verify import verify_store

NUM_UNITS = 3
PART_BYTES = 50_000
REQUEST = OutputRequest("toy", 1, "demo", {}, {})
TROUBLES = {"full": (SmallDisk.fill, PlatformError), "read-only": (SmallDisk.make_read_only, ConfigError)}
POINTS = [f"{what} {number}" for what in ("upload", "note") for number in range(NUM_UNITS)] + ["manifest", "log"]

Trouble = Callable[[SmallDisk], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 1 << 20) as found:
        if found is None:
            pytest.skip("mounting a small disk needs root")
        yield found


class Writer:
    """A step whose disk gets into trouble just before one of its writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[int] = []
        self.before: dict[str, Callable[[], None]] = {}

    def reached(self, point: str) -> None:
        self.before.pop(point, lambda: None)()

    def __call__(self, attempt: Attempt) -> Draft:
        parts = [self._part(attempt, unit) for unit in range(NUM_UNITS)]
        self.reached("manifest")
        return Draft(parts=parts, identity={})

    def _part(self, attempt: Attempt, unit: int) -> Part:
        if (noted := attempt.noted(f"unit-{unit}")) is not None:
            return Part.model_validate(noted)
        path = self.folder / "part"
        path.write_bytes(bytes([unit]) * PART_BYTES)
        self.reached(f"upload {unit}")
        part = attempt.add_part(path, "file", 1, name=str(unit))
        self.reached(f"note {unit}")
        attempt.note(f"unit-{unit}", part.model_dump())
        self.made.append(unit)
        return part


def check_sentence(error: FrostlineError, place: Path) -> None:
    text = str(error)
    assert "\n" not in text
    assert str(place) in text
    assert "cannot write" in text and "expected" in text


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("point", POINTS)
def test_a_store_in_trouble_publishes_nothing_and_a_retry_goes_on(
    point: str, trouble: str, disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown to fail by writing objects in place: a full disk then leaves half a part under its digest."""
    befall, kind = TROUBLES[trouble]
    store = LocalStore(disk.folder / "store")
    writer = Writer(tmp_path)
    writer.before[point] = lambda: befall(disk)
    if point == "log":
        from infra import outputs

        log_commit = outputs.log_commit

        def troubled(*arguments: object) -> None:
            writer.reached("log")
            log_commit(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(outputs, "log_commit", troubled)
    with pytest.raises(FrostlineError) as caught:
        ensure_output(store, REQUEST, writer, {})
    assert type(caught.value) is kind
    check_sentence(caught.value, disk.folder)
    assert (find_output(store, REQUEST) is not None) == (point == "log")
    for key in store.list("toy/parts"):
        assert digest_file(store.folder / key) == Path(key).name, "half a part is visible"
    disk.recover()
    assert store.unfinished() == []
    manifest, _ = ensure_output(store, REQUEST, writer, {})
    assert len(manifest.parts) == NUM_UNITS
    assert writer.made == list(range(NUM_UNITS)), "what was noted was not made again"
    assert verify_store(store).damaged == []


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_cache_in_trouble_holds_nothing_torn_and_a_retry_works(trouble: str, disk: SmallDisk, tmp_path: Path) -> None:
    """Shown to fail by downloading to the final place."""
    befall, kind = TROUBLES[trouble]
    store = LocalStore(tmp_path / "store")
    manifest: Manifest = ensure_output(store, REQUEST, Writer(tmp_path), {})[0]
    cache = PartCache(store, disk.folder / "cache")
    cache.path("toy", manifest.parts[0])
    befall(disk)
    with pytest.raises(FrostlineError) as caught:
        cache.path("toy", manifest.parts[1])
    assert type(caught.value) is kind
    check_sentence(caught.value, disk.folder)
    assert "FROSTLINE_CACHE_DIR" in str(caught.value)
    held = [path for path in (disk.folder / "cache").rglob("*") if path.is_file() and path.parent.name == "parts"]
    assert [path.name for path in held] == [manifest.parts[0].digest]
    disk.recover()
    assert cache.path("toy", manifest.parts[1]).read_bytes() == bytes([1]) * PART_BYTES
