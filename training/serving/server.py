"""The server's life: a version is put up, the door opens, the alias is followed; in the end all begun is finished."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from infra.errors import ConfigError
from training.serving.app import build_app
from training.serving.asking import Asking
from training.serving.champion import Champion
from training.serving.connection import BoundedConnection
from training.serving.intake import is_this_machine
from training.serving.limits import Limits
from training.serving.pictures import Pictures

FINISH_SECONDS = 30
BACKLOG = 512


@dataclass(frozen=True)
class Address:
    """Where the door is, and who may come in."""

    host: str
    port: int
    token: str | None


def check_address(address: Address) -> None:
    """Raises ConfigError where others could reach a server without a token."""
    if address.token is not None or is_this_machine(address.host):
        return
    raise ConfigError(
        f"--host {address.host} was found without a token; expected a token where other machines can connect. Set "
        "FROSTLINE_SERVE_TOKEN or --token-file, or leave --host out."
    )


def bound_socket(address: Address) -> socket.socket:
    """Taken before anything is started. Raises ConfigError where another program has the port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address.host, address.port))
    except OSError as error:
        found.close()
        raise ConfigError(
            f"{address.host}:{address.port} cannot be bound ({error.strerror}); expected a free port of this machine. "
            "Choose another with --port or --host."
        ) from error
    return found


@dataclass(frozen=True)
class Door:
    """What a server is opened with."""

    address: Address
    limits: Limits
    poll_seconds: float
    """How often it is looked whether the replicas are up, and where the alias points."""
    decoders: int = 1


def serve_until_stopped(champion: Champion, door: Door, bound: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Answer at the door's bound address until SIGTERM or Ctrl-C; then finish what was begun. `on_ready` is told the
    URL once it answers."""
    with Pictures(door.limits, door.decoders) as pictures:
        asyncio.run(_serve(champion, door, (bound, pictures), on_ready))


class _Server(uvicorn.Server):
    """Stops when it is told to, and keeps that to itself: uvicorn would send the signal again at the end, to Ray's
    handler, which leaves at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop_when_told(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._told, number)

    def _told(self, number: int) -> None:
        self.handle_exit(number, None)


def server_config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """At the end what was begun has the time that it has at any other: stopping cuts no answer short."""
    return uvicorn.Config(
        app,
        http=type("Connection", (BoundedConnection,), {"header_seconds": limits.header_seconds}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=math.ceil(max(FINISH_SECONDS, limits.request_seconds)),
    )


async def _serve(
    champion: Champion,
    door: Door,
    opened: tuple[socket.socket, Pictures],
    on_ready: Callable[[str], None],
) -> None:
    bound, pictures = opened
    app = build_app(Asking(champion, pictures, door.limits), door.limits, door.address.token)
    server = _Server(server_config(app, door.limits))
    server.stop_when_told()
    answering = asyncio.create_task(server.serve([bound]))
    try:
        while not server.started and not answering.done():
            await asyncio.sleep(0.01)
        await _or_stopped(champion.start(), answering)
        if answering.done():
            return
        host = f"[{door.address.host}]" if ":" in door.address.host else door.address.host
        on_ready(f"http://{host}:{bound.getsockname()[1]}")
        await _or_stopped(champion.follow(door.poll_seconds), answering)
    finally:
        server.should_exit = True
        await answering


async def _or_stopped(doing: object, answering: asyncio.Task[None]) -> None:
    """Until it is done, or the server was asked to stop."""
    task = asyncio.ensure_future(doing)  # type: ignore[call-overload]
    await asyncio.wait({task, answering}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return
    task.result()
