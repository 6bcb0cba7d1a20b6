"""What a request may take. Whoever asks for more is refused before it costs anything."""

from pydantic import BaseModel, ConfigDict, Field

from data_prep.images import MAX_PIXELS


class Limits(BaseModel):
    """Of one server."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_body_bytes: int = Field(default=24 * 2**20, gt=0)
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, le=MAX_PIXELS)
    """Ingestion's limit at most: a larger picture was never trained on either."""
    header_seconds: float = Field(default=10, gt=0)
    body_seconds: float = Field(default=20, gt=0)
    """From the end of the headers to the end of the body, however slowly it comes."""
    request_seconds: float = Field(default=60, gt=0)
    """Then for the answer."""
    decode_seconds: float = Field(default=10, gt=0)
    """Of CPU time, in a process of its own, as at ingestion."""
    decode_memory_bytes: int = Field(default=2**30, gt=0)
    max_waiting_requests: int = Field(default=256, gt=0)
    """Bodies that are read or answered at a time; whoever comes after them is told to come again."""
    max_waiting_bytes: int = Field(default=256 * 2**20, gt=0)
    """Of all these bodies together: what bounds the door's memory."""


MAX_HEADER_BYTES = 32 * 2**10
MAX_QUESTIONS = 16
MAX_LABELS = 64
MAX_TEXT_CHARACTERS = 1000
MAX_NEIGHBOURS = 50
