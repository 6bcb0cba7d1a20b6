"""A proxy on loopback in front of an S3 server that spoils a share of the answers, seeded.

The client sees what a bad network or an overloaded store does: server errors, resets, silence, cut bodies, wrong bytes
of the right length, and requests that had their effect though their answer was lost.
"""

import base64
import hashlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

BEFORE = ("error_500", "error_503", "reset", "silence")
"""The request never reaches the store."""
AFTER = ("lost_answer",)
"""It does, but the client does not hear of it."""
OF_A_BODY = ("cut_body", "wrong_bytes")
OF_AN_UPLOAD = ("damaged_upload",)
"""Wrong bytes arrive at the store, which refuses them where the client sent their sha256, as S3 does."""
KINDS = BEFORE + AFTER + OF_A_BODY + OF_AN_UPLOAD
CODES = {"error_500": (500, "InternalError"), "error_503": (503, "SlowDown"), "refused": (400, "BadDigest")}
ONLY_FOR = {**dict.fromkeys(OF_A_BODY, "GET"), **dict.fromkeys(OF_AN_UPLOAD, "PUT")}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class FaultyS3(ThreadingHTTPServer):
    """Spoils the share `rate` of all requests, each in the kind that was rarest so far of
    those that fit it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, rate: float, seed: int, kinds: Sequence[str] = KINDS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlparse(upstream).netloc
        self.rate, self.kinds = rate, kinds
        self.silence_seconds = 2.0
        """Longer than the client's time-out."""
        self.injected: Counter[str] = Counter()
        self.num_requests = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self, method: str) -> tuple[str | None, float]:
        """The fault of the next request, or None; and a number between 0 and 1 that says where a body is spoiled."""
        with self._lock:
            self.num_requests += 1
            fits = [kind for kind in self.kinds if ONLY_FOR.get(kind, method) == method]
            kind = None
            if self._random.random() < self.rate and fits:
                kind = min(fits, key=lambda kind: (self.injected[kind], self._random.random()))
                self.injected[kind] += 1
            return kind, self._random.random()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is what this is for."""


@contextmanager
def faulty_s3(upstream: str, rate: float, seed: int, kinds: Sequence[str] = KINDS) -> Iterator[FaultyS3]:
    """Runs in threads of this process until the block ends; other processes may be its clients."""
    proxy = FaultyS3(upstream, rate, seed, kinds)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyS3
    upstream: HTTPConnection | None = None

    def log_message(self, *_: Any) -> None:
        pass

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        super().finish()

    def _answer(self) -> None:
        request = self._request_body()
        fault, where = self.server.draw(self.command)
        if fault == "damaged_upload":
            request = _spoiled(request, where)
            fault = "refused" if self._is_found_out(request) else None
        if fault in CODES:
            self._send_error(*CODES[fault])
            return
        if fault == "silence":
            time.sleep(self.server.silence_seconds)
        if fault in ("silence", "reset"):
            self._hang_up()
            return
        status, headers, body = self._forwarded(request)
        if fault == "lost_answer":
            self._hang_up()
            return
        length = len(body) if self.command != "HEAD" else int(dict(headers).get("Content-Length", 0))
        if fault == "wrong_bytes" and status < 300:
            body = _spoiled(body, where)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: int(where * len(body))] if fault == "cut_body" else body)
        if fault == "cut_body":
            self._hang_up()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _is_found_out(self, body: bytes) -> bool:
        stated = self.headers.get("x-amz-checksum-sha256")
        return stated is not None and base64.b64decode(stated) != hashlib.sha256(body).digest()

    def _request_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if self.upstream is None:
            self.upstream = HTTPConnection(self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP | {"expect"}}
        self.upstream.request(self.command, self.path, body or None, {**headers, "Content-Length": str(len(body))})
        answer = self.upstream.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _send_error(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _spoiled(body: bytes, where: float) -> bytes:
    """With one bit of one byte flipped."""
    at = int(where * len(body))
    return body[:at] + bytes([body[at] ^ (1 << at % 8)]) + body[at + 1 :] if body else body
