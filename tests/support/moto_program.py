"""Moto's S3 server, one request at a time: `python moto_program.py -H 127.0.0.1 -p PORT`.

Moto looks whether a key is there and makes it without a lock in between. On a busy machine two of 16 racing conditional
creates were told that theirs was the one, which S3 never does. Bodies are read before the lock: a client may be slow.
"""

import io
import threading
from typing import Any

from moto import server


class OneAtATime(server.DomainDispatcherApplication):
    at_work = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        length = environ.get("CONTENT_LENGTH")
        if length or environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read()
            environ["wsgi.input"] = io.BytesIO(body)
        with self.at_work:
            return super().__call__(environ, start_response)


if __name__ == "__main__":
    server.DomainDispatcherApplication = OneAtATime
    server.main()
