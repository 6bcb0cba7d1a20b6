"""`make bench-evaluation`: what evaluating costs. Prints a table.

export PYTHONPATH=tests/benchmarks/shared:tests/support
python tests/benchmarks/evaluation/bench.py [--quick] [--rounds N] [--only NAME,NAME]

Names: captions, questions and cut (against a loop over `generate` of transformers), cached (a second evaluation). Sides
run interleaved and medians are told; nothing fails for being slow. `--quick` measures next to nothing and shows that
every part of the benchmark still works.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import against_generate
import second_evaluation
from plan import quick, whole
from results import Result, show, write

MEASUREMENTS = {
    "captions": lambda plan: against_generate.measure(plan.captions, plan),
    "questions": lambda plan: against_generate.measure(plan.questions, plan),
    "cut": lambda plan: against_generate.measure(plan.cut, plan),
    "cached": second_evaluation.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test, no figures")
    parser.add_argument("--rounds", type=int, help="of each comparison")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, with commas between them")
    parser.add_argument(
        "--root", type=Path, default=Path("var/bench/evaluation"), help="where models and stores are made"
    )
    parser.add_argument("--out", type=Path, default=Path("var/bench/evaluation.json"))
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    plan = (quick if arguments.quick else whole)(root)
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    results: list[Result] = []
    for name in arguments.only.split(","):
        started = time.perf_counter()
        for result in MEASUREMENTS[name](plan):
            results.append(result)
            seconds = time.perf_counter() - started
            print(f"[bench-evaluation] {result.name}: {result.value:g} ({seconds:.0f} s)", flush=True)
    write(results, arguments.out)
    show(results)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
