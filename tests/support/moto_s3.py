"""An S3 server on loopback, on a free port, stopped by process id."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import free_port, server

BUCKET = "frostline-tests"


def moto_command(port: int) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("moto_program.py")), "-H", "127.0.0.1", "-p", str(port)]


@contextmanager
def moto_s3(log: Path) -> Iterator[str]:
    """The address of a server of its own, without a bucket."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with server(moto_command(port), os.environ, log, f"{url}/moto-api/"):
        yield url


def aws_variables(endpoint: str) -> dict[str, str]:
    """What an operator would set."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
