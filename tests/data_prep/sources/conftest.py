"""An S3 on loopback, and pictures to refer to."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import free_port, server

BUCKET = "frostline-sources"


@pytest.fixture
def pictures(tmp_path: Path, make_picture: Callable[[int], bytes]) -> Path:
    """A folder with 0.png, 1.png and 2.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(make_picture(number))
    return folder


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("moto") / "log"
    with server(command, os.environ, log, f"{address}/moto-api/"):
        yield address


@pytest.fixture
def upload(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """upload(folder or file) -> its URI in a fresh prefix; the AWS variables are set as an operator would."""
    import boto3

    variables = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    prefix = uuid.uuid4().hex

    def send(path: Path) -> str:
        files = [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path]
        for file in files:
            client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(path.parent).as_posix()}")
        return f"s3://{BUCKET}/{prefix}/{path.name}"

    return send
