"""Pictures to refer to, on disk and on S3."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def pictures(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Path:
    """A folder with 0.png, 1.png and 2.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(make_picture(number))
    return folder


@pytest.fixture
def upload(s3: str) -> Callable[[Path], str]:
    """upload(folder or file) -> its URI in a fresh prefix of the S3 on loopback."""
    import boto3

    client = boto3.client("s3")
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")

    def send(path: Path) -> str:
        files = [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path]
        for file in files:
            client.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(path.parent).as_posix()}")
        return f"{s3}/{path.name}"

    return send
