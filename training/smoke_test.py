"""The smoke test of a registered version: a fresh process loads its package, as any user's does, and answers held
examples. `python -m training.smoke_test` reads a Request and writes Answers, both as JSON.

It answers from stored features, because then the texts must be the evaluation's: features of one image differ in low
bits between batch sizes of the tower, and a tie between two tokens can flip. It encodes the pictures too, and says how
far from the stored features they come out.

Shapes: B examples, P patches, V vision width.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from infra.errors import ConfigError, DataError, FrostlineError, IntegrityError, PlatformError
from training.shots import Shot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SECONDS = 1800
"""For loading and a few answers. A model of billions of parameters is read from a slow disk in less."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeldShot(_Message):
    image_id: str
    prompt: str
    target: str
    features: str
    """Base64 of float16[P, V]."""


class HeldExample(_Message):
    image_id: str
    task: str
    prompt: str
    image: str
    """Base64."""
    features: str
    """Base64 of float16[P, V]."""
    shots: list[HeldShot] = []
    """That the evaluation showed before it."""


class Request(_Message):
    package: Path
    cache_dir: Path
    store_uri: str
    threads: int
    examples: list[HeldExample]


class Answers(_Message):
    texts: list[str]
    distances: list[float]
    """Of each picture's features from the stored ones, relative to their norm."""


def in_fresh_process(request: Request) -> Answers:
    """Raises what the process raised of ours; PlatformError where it died or took too long."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-m", "training.smoke_test"]
    try:
        done = subprocess.run(
            command, input=request.model_dump_json().encode(), capture_output=True, env=environment, timeout=MAX_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise PlatformError(
            f"{request.package}: a fresh process did not answer {len(request.examples)} examples within {MAX_SECONDS} "
            "s; expected seconds. Start again on a machine that is less busy."
        ) from error
    if done.returncode:
        told = (done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        known = {kind.exit_code: kind for kind in (ConfigError, DataError, IntegrityError, PlatformError)}
        if done.returncode in known:
            raise known[done.returncode](told)
        raise PlatformError(
            f"{request.package}: a fresh process that loaded it ended with {done.returncode} ({told[-500:]}); expected "
            "answers. Start again; if this comes back, look for too little memory."
        )
    return Answers.model_validate_json(done.stdout)


def answers_to(request: Request) -> Answers:
    """Raises IntegrityError where a byte of the package or of its frozen models is not as registered."""
    import numpy as np

    from infra.store import open_store
    from training.few_shot import EncodedShots
    from training.predictor import Predictor

    store, examples = open_store(request.store_uri), request.examples
    predictor = Predictor.load(request.package, request.cache_dir, store, threads=request.threads)
    card = predictor.package.card

    def patches(held: Sequence[HeldExample | HeldShot]) -> NDArray[np.float16]:
        stored = b"".join(base64.b64decode(one.features) for one in held)
        return np.frombuffer(bytearray(stored), np.float16).reshape(-1, card.num_patches, card.vision_width)

    def encoded(shots: Sequence[HeldShot]) -> EncodedShots:
        return EncodedShots(tuple(Shot(one.image_id, one.prompt, one.target) for one in shots), patches(shots))

    stored_BPV = patches(examples)
    encoded_BPV = predictor.tower.encode([base64.b64decode(example.image) for example in examples])
    texts = predictor.answer_encoded(
        stored_BPV,
        [example.task for example in examples],
        [example.prompt for example in examples],
        [example.image_id for example in examples],
        [encoded(example.shots) for example in examples] if any(example.shots for example in examples) else None,
    )
    pairs = zip(encoded_BPV.astype(np.float32), stored_BPV.astype(np.float32), strict=True)
    distances = [float(np.linalg.norm(new - old) / np.linalg.norm(old)) for new, old in pairs]
    return Answers(texts=texts, distances=distances)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        answers = answers_to(Request.model_validate_json(sys.stdin.buffer.read()))
    except FrostlineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(answers.model_dump_json(), file=out, flush=True)


if __name__ == "__main__":
    main()
