"""A real Prefect server on loopback."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from servers import free_port, server


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """The address of its API, for PREFECT_API_URL. What it keeps is in `folder`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [str(Path(sys.executable).parent / "prefect"), "server", "start", "--host", "127.0.0.1"]
    with server([*command, "--port", str(port)], {**os.environ, **own}, folder / "prefect.log", f"{url}/health"):
        yield url


def ask(api: str, path: str, body: dict[str, Any]) -> Any:
    request = Request(f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    while True:
        try:
            with urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code != 503:  # its SQLite is locked for a moment, on a busy machine
                raise
        time.sleep(0.3)


def state_of(api: str, flow_run: str) -> dict[str, Any]:
    (found,) = ask(api, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
    return dict(found["state"])
