"""Peak memory at ten times the data."""

import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from photos import photo_folder
from plan import Plan
from results import Result, Runs, growth, runs_of
from sides import Side

SAMPLE_SECONDS = 0.05
OF_RAY = ("raylet", "gcs_server", "dashboard", "runtime_env_agent", "log_monitor", "monitor.py")
GOAL = 1.15
CONDITIONS = (
    "Peak of the sum of the proportional set sizes (PSS: shared pages counted once, mapped files counted) of our "
    "process, its pool and the Ray actors, sampled every 50 ms; Ray's own servers are left out, which would only "
    "flatter the ratio. {what}"
)


class Watch:
    """Samples the memory of a process and all below it, while it is entered."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self.peak_mib = 0.0

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak_mib = max(self.peak_mib, sum(_pss_mib(pid) for pid in _family(self._pid)))


def _family(pid: int) -> list[int]:
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True) if not _is_ray(child))]
    except psutil.NoSuchProcess:
        return []


def _is_ray(process: Any) -> bool:
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return True
    return any(name in word for word in command[:3] for name in OF_RAY)


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def measure(plan: Plan) -> Iterator[Result]:
    asked = {"images_per_shard": plan.images_per_shard, "num_processes": len(plan.all_cores)}
    few, many = plan.memory_ingest_images, plan.memory_ingest_images * 10
    sides = {f"{count} images": _ingest(plan, count, asked) for count in (few, many)}
    names = (f"{many} images", f"{few} images")
    yield growth("peak memory of ingest", names, sides, GOAL, CONDITIONS.format(what=""))
    few, many = plan.memory_featurize_images, plan.memory_featurize_images * 10
    sides = {f"{count} images": _featurize(plan, count) for count in (few, many)}
    names = (f"{many} images", f"{few} images")
    yield growth("peak memory of featurize", names, sides, GOAL, CONDITIONS.format(what="MobileNetV2."))


def _ingest(plan: Plan, num_images: int, asked: dict[str, Any]) -> Runs:
    folder = photo_folder(plan.root, plan.photos, num_images)
    peaks = []
    for _ in range(min(plan.rounds, 3)):
        with (
            Side("frostline", sys.executable, "data/frostline_side.py", plan.all_cores) as side,
            Watch(side.pid) as watch,
        ):
            side.ask("ingest", folder=str(folder), **asked)
        peaks.append(watch.peak_mib)
    return runs_of(side, {"folder": str(folder), **asked}, "MiB", peaks)


def _featurize(plan: Plan, num_images: int) -> Runs:
    folder = photo_folder(plan.root, plan.photos, num_images)
    asked = {"folder": str(folder), "tower": str(plan.mobilenet), "images_per_batch": plan.images_per_batch}
    asked |= {"images_per_shard": plan.memory_featurize_images // 4, "num_cores": len(plan.all_cores)}
    with tempfile.TemporaryDirectory(dir=plan.root) as root:
        with Side("frostline", sys.executable, "data/frostline_side.py", plan.all_cores) as side:
            side.ask("ingest_for", root=root, folder=str(folder), images_per_shard=asked["images_per_shard"])
        with Side("frostline", sys.executable, "data/frostline_side.py", plan.all_cores) as side:
            side.ask("start_ray", root=root, num_cores=len(plan.all_cores))
            with Watch(side.pid) as watch:
                side.ask("featurize", root=root, **asked)
    return runs_of(side, asked, "MiB", [watch.peak_mib])
