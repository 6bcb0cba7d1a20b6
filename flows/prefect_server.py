"""The Prefect server that PREFECT_API_URL names, and no other: a client starts one of its own where none is named."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.errors import ConfigError, PlatformError


@contextmanager
def prefect_client(expected: str, remedy: str) -> Iterator[Any]:
    """Raises ConfigError where none is named, PlatformError where it does not answer; `expected` of it, then the
    `remedy`, in words."""
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise ConfigError(
            f"PREFECT_API_URL is not set; expected the address of the Prefect server {expected}. Set it, as `frostline "
            "up` prints it."
        )
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # Prefect reads the environment once in a process, and a flow that ran before it was set has a server of its own.
    try:
        with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPError as error:
        raise PlatformError(
            f"Prefect at PREFECT_API_URL did not answer ({type(error).__name__}); expected it {expected}. {remedy}"
        ) from error
