"""A server under test, its model and its pictures, as tests ask them."""

from dataclasses import dataclass

import httpx
from served_model import ServedModel, Server


@dataclass(frozen=True)
class Running:
    model: ServedModel
    server: Server
    pictures: list[bytes]

    def post(self, path: str, **arguments: object) -> httpx.Response:
        headers = {**self.server.headers, **arguments.pop("headers", {})}  # type: ignore[dict-item]
        return httpx.post(self.server.url + path, headers=headers, timeout=60, **arguments)  # type: ignore[arg-type]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.server.url + path, headers=self.server.headers, timeout=60)
