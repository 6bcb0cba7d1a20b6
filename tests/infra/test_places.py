"""Other people's files: the same answers from disk, from S3 and from the hub, and refusals in one sentence."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_s3 import faulty_s3
from hub import Hub, hub

from infra.errors import ConfigError, FrostlineError, PlatformError
from infra.places import Place, open_place

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "data/a.bin": bytes(range(256)) * 40,
    "data/deep/b.txt": b"b\nline\n",
    "data/ä o.txt": b"umlaut",
    "database.txt": b"beside",
}


@pytest.fixture
def a_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with hub(COMMIT, FILES) as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow), "hub"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a folder with FILES, of each kind."""
    if request.param == "hub":
        request.getfixturevalue("a_hub")
        return f"hf://datasets/org/name@{COMMIT}"
    for name, data in FILES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if request.param == "local":
        return str(tmp_path / "root")
    import boto3

    uri = str(request.getfixturevalue("s3"))
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for name in FILES:
        boto3.client("s3").upload_file(str(tmp_path / "root" / name), bucket, f"{prefix}/{name}")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/data/", Body=b"")  # as consoles mark a folder
    return uri


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "expected" in text
    return text


def test_a_listing_is_sorted_relative_and_below_the_folder_only(root: str) -> None:
    files = open_place(f"{root}/data").files()
    assert [(file.name, file.size_bytes) for file in files] == [
        ("a.bin", 10_240),
        ("deep/b.txt", 7),
        ("ä o.txt", 6),
    ]
    assert len({file.version for file in files}) == 3
    assert [file.name for file in open_place(root).files()] == sorted(FILES)


def test_a_file_by_itself_has_the_facts_of_the_listing(root: str) -> None:
    folder = open_place(f"{root}/data/")
    listed = next(file for file in folder.files() if file.name == "a.bin")
    assert folder.at("a.bin").facts() == listed
    assert (folder.is_folder(), folder.at("a.bin").is_folder(), folder.at("none").is_folder()) == (True, False, False)
    assert folder.at("deep/b.txt").uri == f"{root}/data/deep/b.txt"


def test_files_are_read_whole_by_line_and_from_any_place(root: str) -> None:
    place = open_place(f"{root}/data")
    data = FILES["data/a.bin"]
    assert place.at("a.bin").read() == data
    assert place.at("ä o.txt").read() == b"umlaut"
    with place.at("a.bin").open() as file:
        assert file.seek(10_000) == 10_000
        assert file.read(100) == data[10_000:10_100]
        file.seek(-5, os.SEEK_END)
        assert file.read() == data[-5:]
        file.seek(3)
        assert (file.read(4), file.tell()) == (data[3:7], 7)
    with place.at("deep/b.txt").open() as file:
        assert list(iter(file.readline, b"")) == [b"b\n", b"line\n"]


def test_what_is_not_there_is_one_sentence(root: str) -> None:
    missing, folder = open_place(root).at("none"), open_place(root).at("data")
    for action in (missing.files, missing.facts, missing.open, missing.read, folder.facts):
        with pytest.raises(ConfigError, match="cannot read"):
            action()


@pytest.mark.parametrize(
    "uri",
    [
        "hf://datasets/org/name/data",
        "hf://datasets/org/name@main/data",
        "hf://datasets/org/name@refs%2Fpr%2F1/data",
        f"hf://datasets/org/name@{COMMIT[:12]}/data",
        f"hf://datasets/org/name@{COMMIT.upper()}/data",
        f"hf://datasets/name@{COMMIT}/data",
        f"hf://org/name@{COMMIT}/data",
        f"hf://buckets/org/name@{COMMIT}/data",
        "gs://bucket/data",
        "file:///etc/passwd",
        "http://example.com/data",
        "s3://",
    ],
)
def test_another_kind_of_uri_or_a_branch_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_place(uri)
    assert "commit of 40 hexadecimal digits" in one_sentence(caught.value)


def test_a_password_in_a_uri_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        open_place("https://user:secret@example.com/data")
    assert "secret" not in one_sentence(caught.value)


def test_versions_follow_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = open_place(str(path)).facts()
    os.utime(path, ns=(5, 5))
    assert open_place(str(path)).facts().version == "3-5" != before.version


@pytest.mark.slow
def test_versions_on_s3_follow_the_bytes_and_not_the_time(s3: str) -> None:
    import boto3

    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    seen = []
    for data in (b"one", b"one", b"two"):
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/a", Body=data)
        seen.append(open_place(f"{s3}/a").facts().version)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.slow
def test_a_file_on_s3_that_changes_while_it_is_read_is_not_mixed(s3: str) -> None:
    import boto3

    from infra import places

    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"1" * 3 * places.BLOCK_BYTES)
    with open_place(f"{s3}/a").open() as file:
        assert file.read(1) == b"1"
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"2" * 3 * places.BLOCK_BYTES)
        with pytest.raises(PlatformError):
            file.read()


@pytest.mark.slow
def test_wrong_and_missing_bytes_of_an_object_are_asked_for_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown to fail (PlatformError at the first wrong byte) without `_ask_again_for_wrong_bytes`."""
    import boto3

    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    contents = [bytes([number]) * 5000 for number in range(30)]
    for number, data in enumerate(contents):
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{number}", Body=data)
    with faulty_s3(os.environ["AWS_ENDPOINT_URL"], 0.2, 1, ("wrong_bytes", "cut_body")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert [open_place(f"{s3}/{number}").read() for number in range(30)] == contents
    assert proxy.injected["wrong_bytes"]
    assert proxy.injected["cut_body"]


@pytest.mark.slow
def test_an_s3_that_does_not_answer_is_a_platform_error(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place = open_place(s3)
    actions = (place.files, place.facts, place.read, place.open)
    for action in actions:
        with pytest.raises(FrostlineError) as caught:
            action()
        assert caught.value.retryable
        one_sentence(caught.value)


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_named(s3: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_place("s3://no-such-bucket/data").files()
    assert "no-such-bucket" in one_sentence(caught.value)


def test_a_hub_that_fails_is_a_platform_error(a_hub: Hub) -> None:
    place: Place = open_place(f"hf://datasets/org/name@{COMMIT}/data/a.bin")
    a_hub.status = 500
    with pytest.raises(FrostlineError) as caught:
        place.facts()
    assert caught.value.retryable
    one_sentence(caught.value)


def test_another_commit_is_not_there(a_hub: Hub) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        open_place(f"hf://datasets/org/name@{COMMIT[::-1]}/data").files()
