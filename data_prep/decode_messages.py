"""What a decode pool and its worker processes say to each other: lengths first, then bytes. Nothing is unpickled."""

import json
import struct
from collections.abc import Sequence
from typing import IO, Any

_COUNT = struct.Struct("<I")


def write_images(pipe: IO[bytes], images: Sequence[bytes]) -> None:
    """In one call, so that a busy thread beside this one can hold it up once and not once per image."""
    lengths = struct.pack(f"<{len(images)}I", *map(len, images))
    pipe.write(b"".join([_COUNT.pack(len(images)), lengths, *images]))
    pipe.flush()


def read_images(pipe: IO[bytes]) -> list[bytes]:
    """Raises EOFError where the other side is gone."""
    (count,) = _COUNT.unpack(_read(pipe, _COUNT.size))
    lengths = struct.unpack(f"<{count}I", _read(pipe, 4 * count))
    return _split(_read(pipe, sum(lengths)), lengths)


def write_answers(pipe: IO[bytes], answers: Sequence[dict[str, Any]], blobs: Sequence[bytes]) -> None:
    """One answer and one blob, which may be empty, for each image of a message."""
    text = json.dumps([answers, [len(blob) for blob in blobs]]).encode()
    pipe.write(b"".join([_COUNT.pack(len(text)), text, *blobs]))
    pipe.flush()


def read_answers(pipe: IO[bytes]) -> list[tuple[dict[str, Any], bytes]]:
    """Raises EOFError where the other side is gone."""
    (length,) = _COUNT.unpack(_read(pipe, _COUNT.size))
    answers, lengths = json.loads(_read(pipe, length))
    return list(zip(answers, _split(_read(pipe, sum(lengths)), lengths), strict=True))


def _read(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError(f"the pipe was closed after {len(data)} of {length} bytes")
    return data


def _split(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    pieces, start = [], 0
    for length in lengths:
        pieces.append(data[start : start + length])
        start += length
    return pieces
