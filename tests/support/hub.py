"""A stand-in for the hub on loopback: the three addresses by which its own client lists and reads a dataset."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

from infra.digests import digest_bytes


class Hub(ThreadingHTTPServer):
    """One dataset, `org/name` at one commit. `status` other than 200 is what every request gets."""

    def __init__(self, commit: str, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.commit = commit
        self.files = dict(files)
        self.status = 200

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may hang up."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub(commit: str, files: Mapping[str, bytes]) -> Iterator[Hub]:
    with Hub(commit, files) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parsed = urlparse(self.path)
        path, asked = unquote(parsed.path), parse_qs(parsed.query)
        commit = self.server.commit
        if self.server.status != 200:
            self._send(self.server.status, b"")
        elif path == f"/api/datasets/org/name/revision/{commit}":
            self._json({"id": "org/name", "sha": commit, "siblings": []})
        elif path.startswith(f"/api/datasets/org/name/tree/{commit}"):
            self._tree(path.partition(commit)[2].strip("/"), asked.get("recursive", [""])[0].lower() == "true")
        elif path.startswith(f"/datasets/org/name/resolve/{commit}/"):
            self._file(self.server.files.get(path.partition(f"{commit}/")[2]))
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, folder: str, recursive: bool) -> None:
        prefix = folder + "/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for path, data in self.server.files.items():
            if not path.startswith(prefix):
                continue
            first, slash, _ = path.removeprefix(prefix).partition("/")
            if slash:
                entries[prefix + first] = {"type": "directory", "path": prefix + first, "oid": "0", "size": 0}
            if recursive or not slash:
                entries[path] = {"type": "file", "path": path, "oid": digest_bytes(data), "size": len(data)}
        if entries:
            self._json(list(entries.values()))
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _file(self, data: bytes | None) -> None:
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        if asked:
            start, _, stop = asked.partition("-")
            self._send(206, data[int(start) : int(stop) + 1])
        else:
            self._send(200, data)

    def _json(self, found: object) -> None:
        self._send(200, json.dumps(found).encode())

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
