"""Images that must never come back: their ids, in a log of the store that every ingest reads."""

from collections.abc import Collection

from data_prep.shards import STEP
from infra import log
from infra.digests import digest_json
from infra.store import Store

FOLDER = f"{STEP}/forgotten"


def forgotten_images(store: Store) -> frozenset[str]:
    return frozenset(image_id for entry in log.entries_in(store, FOLDER) for image_id in entry["image_ids"])


def forgotten_input(store: Store) -> dict[str, str]:
    """What a request says of it: nothing as long as there are none."""
    found = forgotten_images(store)
    return {"forgotten": digest_json(sorted(found))} if found else {}


def remember(store: Store, image_ids: Collection[str]) -> None:
    """Enter those that are not there yet."""
    if new := sorted(set(image_ids) - forgotten_images(store)):
        log.append_in(store, FOLDER, {"image_ids": new})
