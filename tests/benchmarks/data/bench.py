"""`make bench-data`: what the data side costs, against other ways of doing the same. Prints a table.

export PYTHONPATH=tests/benchmarks/shared
python tests/benchmarks/data/bench.py [--quick] [--only ingest,featurize,memory,again,reading]

Sides run in one go, interleaved, and medians are told; nothing fails for being slow. `--quick` measures next to nothing
and shows that every part of the benchmark still works.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

import featurize_speed
import ingest_speed
import peak_memory
import reading_speed
import second_featurize
from plan import quick, whole
from results import Result, show, write
from sides import REPOSITORY

MEASUREMENTS = {
    "ingest": ingest_speed.measure,
    "featurize": featurize_speed.measure,
    "memory": peak_memory.measure,
    "again": second_featurize.measure,
    "reading": reading_speed.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test, no figures")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, with commas between them")
    parser.add_argument("--root", type=Path, default=Path("var/bench/data"), help="where images and stores are made")
    parser.add_argument("--out", type=Path, default=Path("var/bench/data.json"))
    arguments = parser.parse_args()
    shared_data = Path(os.environ.get("FROSTLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not shared_data.is_dir():
        parser.error(f"{shared_data}: no real data there; name their folder in FROSTLINE_SHARED_DATA")
    root = arguments.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    plan = (quick if arguments.quick else whole)(root, shared_data)
    results: list[Result] = []
    for name in arguments.only.split(","):
        started = time.perf_counter()
        for result in MEASUREMENTS[name](plan):
            results.append(result)
            print(f"[bench-data] {result.name}: {result.value:g} ({time.perf_counter() - started:.0f} s)", flush=True)
    shutil.rmtree(plan.stores, ignore_errors=True)
    write(results, arguments.out)
    show(results)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
