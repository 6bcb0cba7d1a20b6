"""What a server must refuse: each case as raw bytes on a connection, and the status and code of its answer."""

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlparse

from served_model import TOKEN, Server


@dataclass(frozen=True)
class Case:
    name: str
    status: int
    code: str
    send: Callable[[socket.socket, bytes], None]
    """Writes the request; the bytes are those of a good picture."""


def head(length: int | str, content_type: str = "application/json", token: str | None = TOKEN, more: str = "") -> bytes:
    lines = ["POST /v1/caption HTTP/1.1", "host: localhost", f"content-type: {content_type}"]
    lines += [f"authorization: Bearer {token}"] if token else []
    lines += [f"content-length: {length}"] if isinstance(length, int) else [length]
    return ("\r\n".join([*lines, *([more] if more else [])]) + "\r\n\r\n").encode()


def body_of(picture: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(picture).decode()}).encode()


def _whole(make: Callable[[bytes], bytes], **arguments: str | None) -> Callable[[socket.socket, bytes], None]:
    def send(connection: socket.socket, picture: bytes) -> None:
        body = make(picture)
        connection.sendall(head(len(body), **arguments) + body)  # type: ignore[arg-type]

    return send


def _large(told: bool) -> Callable[[socket.socket, bytes], None]:
    """100 MB, with and without saying so first."""
    chunk = b"a" * 2**20

    def send(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head(100 * 2**20) if told else head("transfer-encoding: chunked"))
        for _ in range(100):
            framed = chunk if told else b"%x\r\n%s\r\n" % (len(chunk), chunk)
            connection.sendall(framed)
        if not told:
            connection.sendall(b"0\r\n\r\n")

    return send


def _slow(connection: socket.socket, _: bytes) -> None:
    connection.sendall(head(1000))
    _drip(connection, b"{" * 100)


def _slow_headers(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"POST /v1/caption HTTP/1.1\r\nhost: localhost\r\nx-drip: ")
    _drip(connection, b"a" * 100)


def _drip(connection: socket.socket, content: bytes) -> None:
    """A byte every fifth of a second, until the server has answered."""
    connection.settimeout(0.2)
    for place in range(len(content)):
        connection.sendall(content[place : place + 1])
        try:
            if connection.recv(1, socket.MSG_PEEK):
                return
        except TimeoutError:
            continue


def _endless_headers(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"POST /v1/caption HTTP/1.1\r\nhost: localhost\r\n")
    for number in range(3):
        connection.sendall(b"x-%d: %s\r\n" % (number, b"a" * 16_000))
        time.sleep(0.05)


def bomb() -> bytes:
    """A PNG of some kilobytes with 400 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501) * 20_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def truncated(picture: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").resize((200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


_FORM = "multipart/form-data; boundary=x"
CASES = [
    Case("no token", 401, "missing_token", _whole(body_of, token=None)),
    Case("another token", 401, "wrong_token", _whole(body_of, token="another")),
    Case("another type", 415, "unsupported_media_type", _whole(body_of, content_type="text/plain")),
    Case("no JSON", 400, "malformed_body", _whole(lambda _: b'{"image": "')),
    Case("no base64", 422, "invalid_request", _whole(lambda _: b'{"image": "no base64!"}')),
    Case("no picture", 422, "invalid_request", _whole(lambda _: b"{}")),
    Case("a field too many", 422, "invalid_request", _whole(lambda p: body_of(p)[:-1] + b', "more": 1}')),
    Case("no form", 400, "malformed_body", _whole(lambda _: b"no form", content_type=_FORM)),
    Case("a form without boundary", 400, "malformed_body", _whole(body_of, content_type="multipart/form-data")),
    Case("a text as picture", 415, "format_not_allowed", _whole(lambda _: body_of(b"<svg></svg>"))),
    Case("a bomb", 422, "too_many_pixels", _whole(lambda _: body_of(bomb()))),
    Case("half a picture", 422, "truncated", _whole(lambda p: body_of(truncated(p)))),
    Case("100 MB", 413, "body_too_large", _large(told=True)),
    Case("100 MB in chunks", 413, "body_too_large", _large(told=False)),
    Case("a slow body", 408, "body_too_slow", _slow),
    Case("slow headers", 408, "headers_refused", _slow_headers),
    Case("endless headers", 431, "headers_refused", _endless_headers),
]


def send_malformed(server: Server, picture: bytes, case: Case) -> tuple[int, str]:
    """(status, code) of the answer."""
    address = urlparse(server.url)
    with socket.create_connection((address.hostname, address.port), 30) as connection:  # type: ignore[arg-type]
        case.send(connection, picture)
        connection.settimeout(30)
        answer = b"".join(_received(connection))
    first, _, rest = answer.partition(b"\r\n")
    body = rest.partition(b"\r\n\r\n")[2]
    return int(first.split()[1]), json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["error"]["code"]


def _received(connection: socket.socket) -> Iterator[bytes]:
    """Up to the end of the JSON, which none of the answers is without."""
    found = b""
    while not found.rstrip().endswith(b"}}"):
        data = connection.recv(65536)
        if not data:
            return
        found += data
        yield data
