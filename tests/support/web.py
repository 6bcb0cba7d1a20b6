"""A web server on loopback whose answers are what the test says, path by path."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request; the answers of a test send what they like through it."""

    server: "Web"
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        web = self.server
        with web.lock:
            web.asked[self.path] += 1
            web.now += 1
            web.most = max(web.most, web.now)
        try:
            web.answers[self.path](self)
        except (BrokenPipeError, ConnectionResetError):
            web.hung_up.set()
            self.close_connection = True
        finally:
            with web.lock:
                web.now -= 1

    def reply(self, body: bytes = b"picture", status: int = 200, **headers: str) -> None:
        """Headers as keywords: `content_type`, `x_robots_tag`; None in `content_length` leaves it out."""
        named = {"content_type": "image/png", "content_length": str(len(body)), **headers}
        self.send_response(status)
        for name, value in named.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Web(ThreadingHTTPServer):
    """What was asked, how often, and how much at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.now = 0
        self.most = 0
        self.hung_up = threading.Event()
        self.over = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may hang up."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def answer(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return self.url(path)


@contextmanager
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
