from collections.abc import Iterator

import pytest
from prefect_server import prefect_server


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server that several tests have flow runs on."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api
