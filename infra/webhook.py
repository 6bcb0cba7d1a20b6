"""Telling another system what happened: one signed POST, tried again while the receiver is away.

X-Frostline-Delivery:   equal for every try of one event, so that a receiver can drop what it has
X-Frostline-Timestamp:  seconds since 1970
X-Frostline-Signature:  sha256=HMAC-SHA256(secret, timestamp + "." + body), in hexadecimal
"""

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.digests import canonical_json
from infra.errors import PlatformError

PASSING_STATUS = (408, 425, 429)


class WebhookSettings(BaseSettings):
    """Whom to tell. From the environment only, as FROSTLINE_WEBHOOK_<NAME>: an address may hold a token, too."""

    model_config = SettingsConfigDict(env_prefix="FROSTLINE_WEBHOOK_", frozen=True, extra="forbid")
    url: SecretStr | None = None
    secret: SecretStr | None = None
    """Shared with the receiver, who compares the signature."""
    timeout_seconds: float = Field(default=10, gt=0)
    max_attempts: int = Field(default=4, gt=0)
    max_seconds: float = Field(default=60, gt=0)
    """No new attempt is begun after this."""


def post(delivery: str, event: Mapping[str, Any], settings: WebhookSettings) -> None:
    """Deliver the event; without an address nothing happens.

    Raises PlatformError, which names neither address nor secret, where it did not arrive."""
    if settings.url is None:
        return
    if settings.secret is None:
        raise PlatformError(
            "webhook: FROSTLINE_WEBHOOK_URL is set and FROSTLINE_WEBHOOK_SECRET is not; expected both, because an "
            "unsigned message can be anybody's. Set the secret."
        )
    import httpx
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

    url, secret, body = settings.url, settings.secret, canonical_json(dict(event))
    retrying = Retrying(
        stop=stop_after_attempt(settings.max_attempts) | stop_after_delay(settings.max_seconds),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_exception(_passes),
        reraise=True,
    )
    try:
        with _unlogged(), httpx.Client(timeout=settings.timeout_seconds) as client:
            # The headers anew for each attempt: a receiver may refuse an old timestamp.
            retrying(lambda: _deliver(client, url, _headers(delivery, body, secret), body))
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        answer = f"answered {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else "not reached"
        raise PlatformError(
            f"webhook: the receiver was {answer} ({type(error).__name__}); expected a status below 300. "
            "Check FROSTLINE_WEBHOOK_URL and the receiver."
        ) from None  # httpx names the address


def signature(timestamp: str, body: bytes, secret: SecretStr) -> str:
    digest = hmac.new(secret.get_secret_value().encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


@contextmanager
def _unlogged() -> Iterator[None]:
    """httpx logs each request with its address; what it says of this thread's is dropped."""
    here = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != here

    logger = logging.getLogger("httpx")
    logger.addFilter(is_of_others)
    try:
        yield
    finally:
        logger.removeFilter(is_of_others)


def _headers(delivery: str, body: bytes, secret: SecretStr) -> dict[str, str]:
    timestamp = str(int(time.time()))
    return {
        "Content-Type": "application/json",
        "X-Frostline-Delivery": delivery,
        "X-Frostline-Timestamp": timestamp,
        "X-Frostline-Signature": signature(timestamp, body, secret),
    }


def _deliver(client: Any, url: SecretStr, headers: Mapping[str, str], body: bytes) -> None:
    answer = client.post(url.get_secret_value(), content=body, headers=headers)  # follows no redirect
    if not answer.is_success:
        import httpx

        raise httpx.HTTPStatusError("not delivered", request=answer.request, response=answer)


def _passes(error: BaseException) -> bool:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in PASSING_STATUS
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
