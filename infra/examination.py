"""Facts about this machine and what it can reach, each with what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import cache_from_source
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from pydantic import BaseModel, ConfigDict

from infra.addresses import without_password
from infra.errors import FrostlineError
from infra.settings import Profile, Settings
from infra.store import open_store, probe

State = Literal["ok", "warning", "fault"]
GIB = 2**30
FEW_BYTES_FREE = 5 * GIB
NO_BYTES_FREE = GIB
SHARED_MEMORY = Path("/dev/shm")
MOST_SKEW_SECONDS = 60
"""S3 refuses requests signed with a clock that is 15 minutes off; claims compare times of different machines."""
ANSWER_SECONDS = 5


class Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    state: State
    found: str
    remedy: str | None = None


def packages() -> Iterator[Finding]:
    """Installed versions against those that this Frostline asks for."""
    from packaging.requirements import Requirement

    wrong = []
    for text in requires("frostline") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "missing"
        if found == "missing" or not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} (expected {wanted.specifier})")
    if wrong:
        yield Finding(
            name="packages",
            state="fault",
            found=", ".join(wrong),
            remedy="Install the versions of requirements.lock: `pip install -r requirements.lock`.",
        )
    else:
        names = ("torch", "transformers", "deepspeed", "ray", "prefect", "mlflow")
        yield Finding(name="packages", state="ok", found=", ".join(f"{name} {version(name)}" for name in names))


def bytecode() -> Iterator[Finding]:
    """Whether each process compiles what it imports anew, which makes every start seconds slower."""
    import torch

    kept = Path(cache_from_source(torch.__file__))
    missing = sys.dont_write_bytecode and not kept.exists()
    yield Finding(
        name="bytecode",
        state="warning" if missing else "ok",
        found="none of torch, and Python keeps none: each process compiles what it imports" if missing else "kept",
        remedy="Unset PYTHONDONTWRITEBYTECODE, or compile once: "
        f"`python -m compileall -q {Path(torch.__file__).parents[1]}`."
        if missing
        else None,
    )


def processors(profile: Profile) -> Iterator[Finding]:
    """Cores and GPUs against what the profile asks for."""
    import torch

    cores = len(os.sched_getaffinity(0))
    wanted = profile.train.num_ranks * profile.train.threads_per_rank
    told = f"{cores} cores; profile {profile.name} trains with {wanted} threads"
    too_few = cores < wanted
    yield Finding(
        name="cores",
        state="warning" if too_few else "ok",
        found=told,
        remedy="Lower train.num_ranks or train.threads_per_rank in the profile." if too_few else None,
    )
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        shown = ", ".join(f"{each.name} ({each.total_memory / GIB:.0f} GiB)" for each in names)
        bf16 = "" if torch.cuda.is_bf16_supported() else "; without bf16: set training.precision: fp32"
        yield Finding(name="GPUs", state="ok", found=shown + bf16)
    elif shutil.which("nvidia-smi"):
        yield Finding(
            name="GPUs",
            state="fault" if profile.train.gpus_per_rank else "warning",
            found=f"a driver is installed, and torch {torch.__version__} sees no GPU",
            remedy="Install the CUDA build of torch of that version, or check the driver with `nvidia-smi`.",
        )
    else:
        yield Finding(
            name="GPUs",
            state="fault" if profile.train.gpus_per_rank else "ok",
            found="none",
            remedy=f"Profile {profile.name} asks for one per rank: use another."
            if profile.train.gpus_per_rank
            else None,
        )


def compiler(profile: Profile) -> Iterator[Finding]:
    """What `compile`, and DeepSpeed's optimizer on the CPU, build at their first use."""
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    missed = found is None and (profile.train.compile or profile.train.offload_optimizer)
    yield Finding(
        name="compiler",
        state="fault" if missed else "ok",
        found=found or f"none, and profile {profile.name} needs {'one' if missed else 'none'}",
        remedy="Install one (Debian: g++), or set train.compile and train.offload_optimizer to false."
        if missed
        else None,
    )


def memory(profile: Profile) -> Iterator[Finding]:
    """Shared memory, where Ray keeps its objects."""
    if not SHARED_MEMORY.is_dir():
        return
    free, wanted = shutil.disk_usage(SHARED_MEMORY).free, profile.ray.object_store_memory_bytes
    too_small = free < wanted
    yield Finding(
        name="shared memory",
        state="fault" if too_small else "ok",
        found=f"{SHARED_MEMORY} has {free / GIB:.1f} GiB free; Ray takes {wanted / GIB:.2f}",
        remedy="Enlarge it (Docker: --shm-size, Kubernetes: a Memory volume) or lower ray.object_store_memory_bytes."
        if too_small
        else None,
    )


def disks(settings: Settings) -> Iterator[Finding]:
    places = {
        "FROSTLINE_VAR_DIR": settings.var_dir,
        "FROSTLINE_CACHE_DIR": settings.cache,
        "TMPDIR": Path(tempfile.gettempdir()),
    }
    for setting, place in places.items():
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        state: State = "fault" if free < NO_BYTES_FREE else "warning" if free < FEW_BYTES_FREE else "ok"
        remedy = None if state == "ok" else f"Make room there, or set {setting} to a larger disk; see `frostline gc`."
        yield Finding(name="disk", state=state, found=f"{place}: {free / GIB:.1f} GiB free", remedy=remedy)


def store(settings: Settings) -> Iterator[Finding]:
    """Writes and removes one object, created by sixteen racers."""
    try:
        opened = open_store(settings.store)
        probe(opened)
    except FrostlineError as error:
        yield Finding(name="store", state="fault", found=str(error), remedy="Correct --store or FROSTLINE_STORE_URI.")
    else:
        yield Finding(name="store", state="ok", found=f"{opened.uri}: creates conditionally")


def answer_of(url: str) -> tuple[str, float]:
    """(text, seconds by which that server's clock is ahead); no text where it refuses. OSError where nobody answers."""
    try:
        with urlopen(url, timeout=ANSWER_SECONDS) as answer:
            text, date = answer.read().decode(errors="replace"), answer.headers.get("Date")
    except HTTPError as error:
        text, date = "", error.headers.get("Date")
    except URLError as error:
        raise OSError(str(error.reason)) from error
    return text.strip().strip('"'), parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0


def server(name: str, url: str, version_path: str, package: str, start: str) -> Iterator[Finding]:
    """Whether it answers, has the minor version of the client, and a clock as ours."""
    shown, ours = without_password(url), version(package)
    try:
        found, skew = answer_of(f"{shown}{version_path}")
    except OSError as error:
        yield Finding(name=name, state="fault", found=f"{shown} does not answer ({error})", remedy=start)
        return
    told = f"{shown} answers, version {found or 'untold'}; this client is {ours}"
    same = f"Have {package} {ours} on both sides: `pip install {package}=={ours}` at the server."
    if not found:
        yield Finding(name=name, state="warning", found=told, remedy=f"Ask who runs it for its version. {same}")
    elif found.split(".")[:2] != ours.split(".")[:2]:
        yield Finding(name=name, state="fault", found=told, remedy=same)
    else:
        yield Finding(name=name, state="ok", found=told)
    if abs(skew) > MOST_SKEW_SECONDS:
        yield Finding(
            name="clock",
            state="fault",
            found=f"{shown} is {skew:+.0f} s away from this machine's clock",
            remedy="Synchronise both with NTP: S3 refuses, and claims misjudge, what is signed in another time.",
        )
