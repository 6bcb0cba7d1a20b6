"""Images from the web: politely, within bounds, and from public addresses only.

An address is checked where the socket to it is made, so neither a redirect nor a name that resolves differently the
second time leads past the check.
"""

import asyncio
import re
import socket
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from data_prep.sources.archives import MAX_MEMBER_BYTES
from data_prep.sources.base import RowFault, shown
from infra.addresses import without_password
from infra.public_addresses import is_public

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

AGENT = "frostline"
OPT_OUT = ("noai", "noimageai", "noindex", "noimageindex", "none")
MAX_URL_CHARS = 8192
CHUNK_BYTES = 64 * 2**10
_HOST = re.compile(r"[\w.:%-]+", re.ASCII)
_VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


class FetchRules(BaseModel):
    """What may be fetched. Part of the fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    allow_hosts: tuple[str, ...] = ()
    """Names, or patterns such as `*.example.com`. Default: every host that `deny_hosts` does not name."""
    deny_hosts: tuple[str, ...] = ()
    private_hosts: tuple[str, ...] = ()
    """Hosts whose addresses need not be public, such as an image server of one's own."""
    opt_out: tuple[str, ...] = OPT_OUT
    """Directives of `X-Robots-Tag` that keep an image out."""
    max_bytes: int = Field(default=MAX_MEMBER_BYTES, gt=0, le=MAX_MEMBER_BYTES)
    max_redirects: int = Field(default=3, ge=0, le=10)


class FetchPace(BaseModel):
    """How fast. No part of the fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_concurrent: int = Field(default=64, gt=0)
    max_concurrent_per_host: int = Field(default=4, gt=0)
    requests_per_second_per_host: float | None = Field(default=None, gt=0)
    timeout_seconds: float = Field(default=30, gt=0)
    """Of one try, from the name to the last byte."""
    num_tries: int = Field(default=3, gt=0)
    backoff_seconds: float = Field(default=1, ge=0)
    """Before the second try; doubled before each further one, with jitter."""


class Fetcher:
    """Fetches in a thread of its own, which ends with this object."""

    def __init__(self, rules: FetchRules, pace: FetchPace) -> None:
        self._pending: dict[str, Future[bytes]] = {}
        self._client = _Client(rules, pace)
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(self._loop, self._client), name="fetcher", daemon=True)
        thread.start()
        weakref.finalize(self, _stop, self._loop, thread)

    def fetch_ahead(self, urls: Iterable[str]) -> None:
        for url in urls:
            if url not in self._pending:
                self._pending[url] = self._submit(url)

    def read(self, url: str) -> bytes:
        """The image at the URL. Raises RowFault."""
        future = self._pending.pop(url, None) or self._submit(url)
        return future.result()

    def _submit(self, url: str) -> "Future[bytes]":
        return asyncio.run_coroutine_threadsafe(self._client.fetch(url), self._loop)


def _serve(loop: asyncio.AbstractEventLoop, client: "_Client") -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, client.close(), return_exceptions=True))
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:
        thread.join()


class _Client:
    """Lives in the fetcher's loop."""

    def __init__(self, rules: FetchRules, pace: FetchPace) -> None:
        self._rules = rules
        self._pace = pace
        self._all = asyncio.Semaphore(pace.max_concurrent)
        self._hosts: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._next_start: dict[str, float] = {}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def fetch(self, url: str) -> bytes:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._pace.num_tries),
            wait=wait_exponential_jitter(self._pace.backoff_seconds, jitter=self._pace.backoff_seconds),
            retry=retry_if_exception(lambda error: isinstance(error, RowFault) and error.passing),
            reraise=True,
        )
        data: bytes = await retrying(self._try, url)
        return data

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def _try(self, text: str) -> bytes:
        """One try, through all its redirects."""
        url = _parse(text)
        for _ in range(self._rules.max_redirects + 1):
            self._check_host(url)
            found = await self._get(url)
            if isinstance(found, bytes):
                return found
            url = _parse(found, url)
        raise RowFault("too_many_redirects", f"{text}: more than {self._rules.max_redirects} redirects")

    async def _get(self, url: "URL") -> bytes | str:
        """The body, or where it has gone."""
        import aiohttp

        host = str(url.host)
        turns = self._hosts.setdefault(host, asyncio.Semaphore(self._pace.max_concurrent_per_host))
        async with turns, self._all:  # in this order: who waits for a slow host keeps nobody else waiting
            await self._wait_for_turn(host)
            try:
                async with self._session(host).get(url, allow_redirects=False) as response:
                    return await self._answer(url, response)
            except TimeoutError as error:
                raise RowFault(
                    "time_out", f"{url}: no answer in {self._pace.timeout_seconds} s", passing=True
                ) from error
            except aiohttp.InvalidURL as error:
                raise RowFault("refused_url", f"{url}: {error}") from error
            except aiohttp.ClientError as error:
                if isinstance(getattr(error, "os_error", None), _RefusedAddressError):
                    raise RowFault("refused_address", f"{url} leads to an address that is not public") from error
                raise RowFault("connection_failed", f"{url}: {type(error).__name__} {error}", passing=True) from error

    async def _answer(self, url: "URL", response: "aiohttp.ClientResponse") -> bytes | str:
        self._check_opt_out(url, response.headers.getall("X-Robots-Tag", []))
        if response.status in (301, 302, 303, 307, 308) and (location := response.headers.get("Location")):
            return location
        _check_status(url, response.status)
        kind = response.content_type
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise RowFault("not_an_image", f"{url}: {kind} was sent; expected an image")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RowFault("not_an_image", f"{url}: a compressed body was sent; expected the image as it is")
        body = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > self._rules.max_bytes:
                raise RowFault("too_large", f"{url}: more than {self._rules.max_bytes} bytes")
        return bytes(body)

    def _check_host(self, url: "URL") -> None:
        rules, host = self._rules, str(url.host).rstrip(".")
        allowed = not rules.allow_hosts or _matches(host, rules.allow_hosts)
        if not allowed or _matches(host, rules.deny_hosts):
            raise RowFault("refused_host", f"{url}: the recipe does not allow this host")

    def _check_opt_out(self, url: "URL", values: Iterable[str]) -> None:
        for value in values:
            agent, colon, rest = value.partition(":")
            agent = agent.strip().lower()
            named = bool(colon) and "," not in agent and agent not in _VALUED_DIRECTIVES
            if named and agent != AGENT:
                continue
            directives = {directive.strip().lower() for directive in (rest if named else value).split(",")}
            if said := directives & {directive.lower() for directive in self._rules.opt_out}:
                raise RowFault("opted_out", f"{url}: X-Robots-Tag says {', '.join(sorted(said))}")

    async def _wait_for_turn(self, host: str) -> None:
        if self._pace.requests_per_second_per_host is None:
            return
        now = time.monotonic()
        if len(self._next_start) > 10_000:
            self._next_start = {name: start for name, start in self._next_start.items() if start > now}
        start = max(now, self._next_start.get(host, 0))
        self._next_start[host] = start + 1 / self._pace.requests_per_second_per_host
        await asyncio.sleep(start - now)

    def _session(self, host: str) -> "aiohttp.ClientSession":
        """One for hosts of one's own, one for all others, whose sockets are made by `_public_socket`."""
        private = _matches(host.rstrip("."), self._rules.private_hosts)
        if private not in self._sessions:
            self._sessions[private] = _open_session(self._pace, private)
        return self._sessions[private]


def _open_session(pace: FetchPace, private: bool) -> "aiohttp.ClientSession":
    import aiohttp

    connector = aiohttp.TCPConnector(
        limit=0,  # the semaphores bound them, outside the time of a try
        keepalive_timeout=2,  # lists name many hosts, and idle connections are open files
        socket_factory=None if private else _public_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=pace.timeout_seconds),
        headers={"User-Agent": AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # a body could be a bomb
        trust_env=False,  # a proxy would connect where we cannot see it
    )


class _RefusedAddressError(OSError):
    pass


def _public_socket(found: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = found
    if not is_public(str(address[0])):
        raise _RefusedAddressError("not a public address")
    return socket.socket(family, kind, protocol)


def _parse(text: str, base: "URL | None" = None) -> "URL":
    """The URL, relative to the one that led to it."""
    from yarl import URL

    told = shown(without_password(text))
    try:
        if len(text) > MAX_URL_CHARS:
            raise ValueError("too long")
        url = base.join(URL(text)) if base else URL(text)
        host = url.raw_host or ""
    except (ValueError, TypeError) as error:
        raise RowFault("refused_url", f"{told} is no URL ({shown(without_password(str(error)))})") from error
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(host) or url.user or url.password:
        raise RowFault("refused_url", f"{told}; expected http:// or https:// and a host, without a password")
    return url


def _check_status(url: "URL", status: int) -> None:
    if status == 200:
        return
    if status in (404, 410):
        raise RowFault("not_found", f"{url}: status {status}")
    if status == 429:
        raise RowFault("too_many_requests", f"{url}: status {status}", passing=True)
    if status >= 500 or status == 408:
        raise RowFault("server_error", f"{url}: status {status}", passing=True)
    raise RowFault("refused_by_server", f"{url}: status {status}")


def _matches(host: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(host.lower(), pattern.lower()) for pattern in patterns)
