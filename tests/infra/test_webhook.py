"""A real receiver on loopback."""

import hashlib
import hmac
import json
from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr
from receiver import Receiver, receiving

import infra.webhook
from infra.errors import PlatformError
from infra.webhook import WebhookSettings, post, signature

SECRET = "between us"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def settings(url: str, **more: float) -> WebhookSettings:
    return WebhookSettings(url=SecretStr(url), secret=SecretStr(SECRET), **more)  # type: ignore[arg-type]


def test_the_receiver_can_tell_by_the_signature_who_sent_the_body(receiver: Receiver) -> None:
    post("m-1", {"event": "changed", "model": "m"}, settings(receiver.url))
    ((headers, body),) = receiver.got
    assert json.loads(body) == {"event": "changed", "model": "m"}
    assert headers["X-Frostline-Delivery"] == "m-1"
    signed = headers["X-Frostline-Timestamp"].encode() + b"." + body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-Frostline-Signature"] == f"sha256={expected}"


def test_a_receiver_that_is_away_for_a_moment_is_tried_again_with_the_same_delivery(receiver: Receiver) -> None:
    receiver.statuses = [503, 429, 200]
    post("m-1", {}, settings(receiver.url))
    assert [headers["X-Frostline-Delivery"] for headers, _ in receiver.got] == ["m-1"] * 3


def test_each_attempt_is_signed_with_its_own_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.webhook.time, "time", lambda: 1000.0 + 300 * len(receiver.got))
    receiver.statuses = [503, 200]
    post("m-1", {}, settings(receiver.url))
    stamped = [(headers["X-Frostline-Timestamp"], headers["X-Frostline-Signature"]) for headers, _ in receiver.got]
    assert stamped == [(at, signature(at, b"{}", SecretStr(SECRET))) for at in ("1000", "1300")]


def test_no_log_names_the_address(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    post("m-1", {}, settings(receiver.url))
    assert len(receiver.got) == 1 and "token-in-the-path" not in caplog.text
    httpx.post(receiver.url, content=b"")
    assert "token-in-the-path" in caplog.text, "other requests are logged as ever"


@pytest.mark.parametrize(("status", "tries"), [(500, 2), (403, 1), (307, 1)])
def test_what_is_not_delivered_is_told_without_address_and_secret(receiver: Receiver, status: int, tries: int) -> None:
    receiver.statuses = [status]
    with pytest.raises(PlatformError, match=f"answered {status}") as found:
        post("m-1", {}, settings(receiver.url, max_attempts=2))
    assert len(receiver.got) == tries, "refused for good, or redirected, it is not tried again"
    told = f"{found.value} {found.value.__cause__} {settings(receiver.url)!r}"
    assert "token-in-the-path" not in told and SECRET not in told


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/token-in-the-path", "nonsense", "ftp://token-in-the-path/"])
def test_a_receiver_that_is_not_there_is_a_platform_error(url: str) -> None:
    with pytest.raises(PlatformError, match="the receiver was not reached") as found:
        post("m-1", {}, settings(url, max_attempts=2))
    assert "token-in-the-path" not in str(found.value)


def test_without_an_address_nothing_is_sent_and_without_a_secret_nothing_is_sent_unsigned(receiver: Receiver) -> None:
    post("m-1", {}, WebhookSettings())
    with pytest.raises(PlatformError, match="Set the secret"):
        post("m-1", {}, WebhookSettings(url=SecretStr(receiver.url)))
    assert receiver.got == []
