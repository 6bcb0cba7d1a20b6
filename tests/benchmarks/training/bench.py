"""`make bench-training`: what training costs, against other ways of doing the same. Prints a table.

export PYTHONPATH=tests/benchmarks/shared:tests/support
python tests/benchmarks/training/bench.py [--quick] [--rounds N] [--only NAME,NAME]

Names: few-captions, long-prefix and answers (against the `transformers` Trainer), loop, checkpoints, features.
Sides run in one go, interleaved, and medians are told; nothing fails for being slow. `--quick` measures next to nothing
and shows that every part of the benchmark still works. `--only trainer-settings` tries other settings of the
`transformers` Trainer than those of plan.py.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import against_bare_loop
import against_trainer
import checkpoint_pauses
import stored_features
from plan import quick, whole
from results import Result, show, write
from sides import REPOSITORY

MEASUREMENTS = {
    "few-captions": against_trainer.few_captions,
    "long-prefix": against_trainer.long_prefix,
    "answers": against_trainer.answers,
    "loop": against_bare_loop.measure,
    "checkpoints": checkpoint_pauses.measure,
    "features": stored_features.measure,
}
ON_DEMAND = {"trainer-settings": against_trainer.settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test, no figures")
    parser.add_argument("--rounds", type=int, help="of each comparison")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, with commas between them")
    parser.add_argument(
        "--root", type=Path, default=Path("var/bench/training"), help="where models and stores are made"
    )
    parser.add_argument("--out", type=Path, default=Path("var/bench/training.json"))
    arguments = parser.parse_args()
    shared_data = Path(os.environ.get("FROSTLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not shared_data.is_dir():
        parser.error(f"{shared_data}: no real data there; name their folder in FROSTLINE_SHARED_DATA")
    root = arguments.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    plan = (quick if arguments.quick else whole)(root, shared_data)
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    results: list[Result] = []
    for name in arguments.only.split(","):
        started = time.perf_counter()
        for result in (MEASUREMENTS | ON_DEMAND)[name](plan):
            results.append(result)
            print(
                f"[bench-training] {result.name}: {result.value:g} ({time.perf_counter() - started:.0f} s)", flush=True
            )
    write(results, arguments.out)
    show(results)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
