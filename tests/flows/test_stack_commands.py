"""What commands about the servers of `frostline up` tell."""

import pytest

from flows.stack import Stack
from flows.stack_commands import down_command

HERE, ELSEWHERE = "http://127.0.0.1:4200/api", "https://prefect.example/api"


@pytest.mark.parametrize(
    ("num_stopped", "api", "is_told"), [(5, HERE, True), (5, ELSEWHERE, False), (5, None, False), (0, HERE, False)]
)
def test_down_says_what_this_shell_still_names(
    num_stopped: int,
    api: str | None,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Stack, "down", lambda *_: num_stopped)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if api:
        monkeypatch.setenv("PREFECT_API_URL", api)
    down_command(as_json=False)
    assert ("unset PREFECT_API_URL\n" in capsys.readouterr().out) is is_told
