"""Captions asked of a running server, under load and while its alias moves."""

import base64
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from load import Load, Request, put_load
from served_model import NAME, ServedModel

from training.predictor import Predictor, fetch_package


def in_json(picture: bytes, **fields: Any) -> bytes:
    return json.dumps({"image": base64.b64encode(picture).decode(), **fields}).encode()


@lru_cache
def predictor_of(model: ServedModel, version: str) -> Predictor:
    """As the command line loads it."""
    found = model.registry.version(NAME, version)
    cache_dir = model.workspace.cache.folder
    return Predictor.load(fetch_package(model.registry, found, cache_dir), cache_dir, model.workspace.store, threads=1)


@lru_cache
def _captions(model: ServedModel, version: str, pictures: tuple[bytes, ...]) -> Sequence[str]:
    return predictor_of(model, version).caption(pictures)


def captions_asked(running: Any, number: int) -> list[Request]:
    bodies = [in_json(picture) for picture in running.pictures]
    return [Request("/v1/caption", bodies[place % len(bodies)]) for place in range(number)]


def assert_each_answer_is_its_versions(load: Load, running: Any) -> set[str]:
    """Every caption is what that version says of that picture alone. Returns the versions."""
    versions = set()
    for answer in load.answers:
        found = json.loads(answer.body)
        version = found["model"]["version"]
        versions.add(version)
        expected = _captions(running.model, version, tuple(running.pictures))
        assert found["caption"] == expected[answer.number % len(running.pictures)]
    return versions


def version_of(running: Any) -> str:
    return str(running.get("/readyz").json()["model"]["version"])


def swap_under_load(running: Any, version: str, num_requests: int, clients: int = 8) -> Load:
    """So many requests, with the alias moved in the middle, and as many more as the new version needs to answer."""

    def during(num_answered: int) -> None:
        if num_answered == num_requests // 2:
            running.model.move_champion(version)

    load = put_load(running.server.url, captions_asked(running, num_requests), clients, running.server.headers, during)
    answers, seconds = load.answers, load.seconds
    while version_of(running) != version:
        assert seconds < 240, running.get("/readyz").json()
        more = put_load(running.server.url, captions_asked(running, 20), 2, running.server.headers)
        answers, seconds = [*answers, *more.answers], seconds + more.seconds
    after = put_load(running.server.url, captions_asked(running, 40), clients, running.server.headers)
    return Load([*answers, *after.answers], seconds)
