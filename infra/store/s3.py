"""A store under an S3 prefix, by s3fs. Credentials and endpoint come from the usual AWS variables, never from a recipe.

Every request may be answered by a server error, a reset, a time-out or half a body, and may have had its effect before
its answer was lost: passing faults are tried again with back-off, and `create` recognises its own object.
"""

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import ConfigError, PlatformError
from infra.store.protocol import StoredObject

Result = TypeVar("Result")
NUM_COMPARISONS = 4
"""Reads of an object that was there first, before it is somebody else's: bytes of the right length may be wrong."""
KEYS_PER_DELETE = 1000
NOT_FOUND, TAKEN = 404, 412
PASSING_STATUS = (408, 409, 429)
PASSING_CODES = ("BadDigest", "IncompleteBody", "InvalidDigest", "RequestTimeout", "XAmzContentSHA256Mismatch")
"""Refusals of a body that was damaged or cut on its way; another try sends it again."""


class S3Settings(BaseSettings):
    """How patient to be. Every field can be set as FROSTLINE_S3_<NAME>; AWS_MAX_ATTEMPTS counts within one request."""

    model_config = SettingsConfigDict(env_prefix="FROSTLINE_S3_", frozen=True, extra="forbid")
    connect_timeout_seconds: float = Field(default=10, gt=0)
    read_timeout_seconds: float = Field(default=30, gt=0)
    """Without a byte, not of a whole download."""
    max_attempts: int = Field(default=8, gt=0)
    max_seconds: float = Field(default=180, gt=0)
    """No new attempt is begun after this."""


class S3Store:
    def __init__(self, uri: str) -> None:
        import s3fs

        self.uri = uri.rstrip("/")
        self._root = self.uri.removeprefix("s3://")
        self._bucket, _, self._prefix = self._root.partition("/")
        self._settings = S3Settings()
        self._fs = s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL"),
            config_kwargs={
                "retries": {"mode": "standard"},
                "connect_timeout": self._settings.connect_timeout_seconds,
                "read_timeout": self._settings.read_timeout_seconds,
                "response_checksum_validation": "when_required",  # the readers compare digests
            },
        )
        self._fs.retries = 1  # botocore repeats requests, we repeat the whole; a third layer would multiply the waits

    def exists(self, key: str) -> bool:
        try:
            self._request("head_object", Key=self._key(key))
        except FileNotFoundError:
            return False
        return True

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self._call(lambda: self._fs.cat_file(self._path(key), max_concurrency=1)))
        except FileNotFoundError:
            return None

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._put(key, data, mode="create")
        except FileExistsError:
            return any(self.read(key) == data for _ in range(NUM_COMPARISONS))
        return True

    def write(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def upload(self, path: Path, key: str, digest: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(digest)).decode()
        self._writing(lambda: self._fs.put_file(str(path), self._path(key), ChecksumSHA256=checksum))

    def download(self, key: str, path: Path) -> None:
        self._call(lambda: self._fs.get_file(self._path(key), str(path)))

    def delete(self, prefix: str) -> None:
        self.remove([prefix, *self.list(prefix)])

    def remove(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), KEYS_PER_DELETE):
            chunk = [{"Key": self._key(key)} for key in keys[start : start + KEYS_PER_DELETE]]
            answer = self._request("delete_objects", Delete={"Objects": chunk, "Quiet": True})
            for refused in answer.get("Errors", []):
                raise PlatformError(
                    f"{self.uri}: {refused.get('Key')} was not deleted ({refused.get('Message')}); expected it to be "
                    "gone. Check the permission to delete (s3:DeleteObject), then start again."
                )

    def objects(self, prefix: str) -> list[StoredObject]:
        below = self._key(prefix).rstrip("/") + "/" if self._key(prefix) else ""
        pages = self._pages("list_objects_v2", {"ContinuationToken": "NextContinuationToken"}, Prefix=below)
        return sorted(
            (
                StoredObject(self._relative(found["Key"]), int(found["Size"]), found["LastModified"].timestamp())
                for page in pages
                for found in page.get("Contents", [])
            ),
            key=lambda found: found.key,
        )

    def unfinished(self) -> list[StoredObject]:
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        below = f"{self._prefix}/" if self._prefix else ""
        return [
            StoredObject(self._relative(found["Key"]), self._uploaded_bytes(found), at, found["UploadId"])
            for page in self._pages("list_multipart_uploads", markers, Prefix=below)
            for found in page.get("Uploads", [])
            for at in [found["Initiated"].timestamp()]
        ]

    def discard(self, left: StoredObject) -> None:
        try:
            self._request("abort_multipart_upload", Key=self._key(left.key), UploadId=left.upload_id)
        except FileNotFoundError:
            return

    def list(self, prefix: str) -> list[str]:
        return [found.key for found in self.objects(prefix)]

    def _uploaded_bytes(self, upload: dict[str, Any]) -> int:
        parts = self._request("list_parts", Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", [])
        return sum(int(part["Size"]) for part in parts)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _key(self, key: str) -> str:
        return "/".join(filter(None, (self._prefix, key)))

    def _relative(self, key: str) -> str:
        return key.removeprefix(f"{self._prefix}/") if self._prefix else key

    def _request(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._call(lambda: self._fs.call_s3(method, Bucket=self._bucket, **arguments))
        return answer

    def _pages(self, method: str, markers: dict[str, str], **arguments: Any) -> Iterator[dict[str, Any]]:
        """Answers of a listing, one after the other; each page is tried again by itself."""
        position: dict[str, Any] = {}
        while True:
            try:
                page = self._request(method, **arguments, **position)
            except FileNotFoundError:  # no such bucket
                return
            yield page
            if not page.get("IsTruncated"):
                return
            position = {name: page[found] for name, found in markers.items()}

    def _put(self, key: str, data: bytes, **more: str) -> None:
        from infra.digests import digest_bytes

        checksum = base64.b64encode(bytes.fromhex(digest_bytes(data))).decode()
        self._writing(lambda: self._fs.pipe_file(self._path(key), data, ChecksumSHA256=checksum, **more))

    def _writing(self, action: Callable[[], object]) -> None:
        try:
            self._call(action)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.uri}: cannot write ({error}); expected a bucket that exists. "
                "Create the bucket or pass another place with --store."
            ) from error

    def _call(self, action: Callable[[], Result]) -> Result:
        """The action's result, tried again while faults pass.

        Raises FileNotFoundError or FileExistsError where S3 says so, and OSError of the local disk as it is."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

        settings = self._settings
        retrying = Retrying(
            stop=stop_after_attempt(settings.max_attempts) | stop_after_delay(settings.max_seconds),
            wait=wait_random_exponential(multiplier=0.1, max=10),
            retry=retry_if_exception(_passes),
            reraise=True,
        )
        try:
            return retrying(action)
        except Exception as error:  # every transport's own classes: botocore, aiohttp, OSError
            self._tell(error)

    def _tell(self, error: Exception) -> NoReturn:
        status = _status(error)
        told = " ".join(str(error).split())
        if status == NOT_FOUND:
            raise FileNotFoundError(told) from error
        if status == TAKEN:
            raise FileExistsError(told) from error
        if status is None and isinstance(error, OSError) and not _passes(error):
            raise error
        kind = PlatformError if _passes(error) else ConfigError
        raise kind(
            f"{self.uri}: the store answered {type(error).__name__}: {told}; expected it to be reachable. "
            "Check AWS_ENDPOINT_URL, the AWS credentials and the bucket, then start again: finished work is kept."
        ) from error


def _answer(error: BaseException) -> dict[str, Any]:
    """What S3 answered, where the error is an answer. s3fs hides botocore's error behind an OSError."""
    for link in (error, error.__cause__):
        answer = getattr(link, "response", None)
        if isinstance(answer, dict):
            return answer
    return {}


def _status(error: BaseException) -> int | None:
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def _passes(error: BaseException) -> bool:
    """Whether another try can help: a server's error, a lost connection, a body that was cut or cannot be parsed."""
    status = _status(error)
    if status is not None:
        code = _answer(error).get("Error", {}).get("Code")
        return status >= 500 or status in PASSING_STATUS or code in PASSING_CODES
    return isinstance(error, tuple(_passing_classes()))


def _passing_classes() -> Sequence[type[BaseException]]:
    import asyncio

    import aiohttp
    from botocore import exceptions, parsers

    return (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        exceptions.ChecksumError,
        parsers.ResponseParserError,
        aiohttp.ClientError,
        asyncio.TimeoutError,
        ConnectionError,
        KeyError,  # an answer with a damaged name or number in it
        ValueError,
    )
