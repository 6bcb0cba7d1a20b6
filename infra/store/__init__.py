"""Objects under one URI: a local folder or an S3 prefix. The only package that knows fsspec and s3fs.

Keys are relative POSIX paths. An object is written whole or not at all: local writes go through a synced
temporary file and a link, S3 writes through one PUT. `create` is conditional (one winner among any number of racers).
"""

from infra.store.local import LocalStore
from infra.store.opening import PROBE_FOLDER, open_store, probe
from infra.store.protocol import Store, StoredObject

__all__ = ["PROBE_FOLDER", "LocalStore", "Store", "StoredObject", "open_store", "probe"]
