from collections.abc import Iterator

import pytest
from prefect_server import prefect_server
from receiver import Receiver, receiving


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server that several tests have flow runs on."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Of the webhook, configured as an operator does; one try each."""
    with receiving() as found:
        monkeypatch.setenv("FROSTLINE_WEBHOOK_URL", found.url)
        monkeypatch.setenv("FROSTLINE_WEBHOOK_SECRET", "between us")
        monkeypatch.setenv("FROSTLINE_WEBHOOK_MAX_ATTEMPTS", "1")
        yield found
