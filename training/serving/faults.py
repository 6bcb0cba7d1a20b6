"""What a client is told when it gets no answer: a status, a code that stays, and one sentence."""

from dataclasses import dataclass

from data_prep.images import ImageError

STATUS_OF = {
    "malformed_body": 400,
    "wrong_host": 400,
    "missing_token": 401,
    "wrong_token": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_slow": 408,
    "body_too_large": 413,
    "too_many_bytes": 413,
    "unsupported_media_type": 415,
    "format_not_allowed": 415,
    "invalid_request": 422,
    "too_many_pixels": 422,
    "truncated": 422,
    "unreadable_image": 422,
    "too_slow": 422,
    "too_much_memory": 422,
    "decoder_died": 422,
    "task_not_trained": 422,
    "no_labels": 422,
    "text_too_long": 422,
    "no_features": 422,
    "failed": 500,
    "not_ready": 503,
    "busy": 503,
    "took_too_long": 504,
}
"""By code. The image's own faults have the names that ingestion's quarantine gives them."""


@dataclass(frozen=True)
class Fault:
    """Why there is no answer."""

    code: str
    message: str

    @property
    def status(self) -> int:
        return STATUS_OF[self.code]


class Refused(Exception):  # noqa: N818 (an answer too)
    """Raised where a request ends, with what its client is told."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)


def fault_of_image(error: ImageError) -> Fault:
    return Fault(error.reason if error.reason in STATUS_OF else "unreadable_image", str(error))
