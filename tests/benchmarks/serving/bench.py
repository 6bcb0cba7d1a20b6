"""`make bench-serving`: `frostline serve` against `mlflow models serve` of the same version. Prints a table.

export PYTHONPATH=tests/benchmarks/shared:tests/support
python tests/benchmarks/serving/bench.py [--quick] [--rounds N]

Both servers run at once and are asked in turn, captions of the tiny recipe's test pictures, by 1, 8 and 32 clients that
each wait for their answer. Medians over rounds are told; nothing fails for being slow. `--quick` measures next to
nothing and shows that every part of the benchmark still works.
"""

import argparse
from pathlib import Path

from both import both_servers
from results import Result, interleaved, ratio, show, write

CONDITIONS = "captions over HTTP, picture in base64; server and clients on the same cores; one torch thread each"
GOALS = {8: 2.0}
CLIENTS = {1: 60, 8: 240, 32: 480}
"""Requests of each round."""
QUICK = {1: 5, 8: 16, 32: 40}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test, no figures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, default=Path("var/bench/serving"), help="where the model is made")
    parser.add_argument("--out", type=Path, default=Path("var/bench/serving.json"))
    arguments = parser.parse_args()
    root = arguments.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with both_servers(root) as sides:
        for clients, num_requests in (QUICK if arguments.quick else CLIENTS).items():
            asks = {side.name: side.asking(clients, num_requests) for side in sides}
            for side in sides:
                side.ask(clients, 3 * clients)  # what is done once is done now
            answers = interleaved(1 if arguments.quick else arguments.rounds, asks)
            results += _results(clients, {side.name: side for side in sides}, answers)
            print(f"[bench-serving] {clients} clients: {results[-3].value:g} times as many requests", flush=True)
    write(results, arguments.out)
    show(results)
    print(f"written to {arguments.out}")


def _results(clients: int, sides: dict, answers: dict) -> list[Result]:
    asked = {"clients": clients, "requests": answers["frostline"][0]["requests"]}
    rates = {name: side.rates(asked, answers[name]) for name, side in sides.items()}
    found = [ratio(f"requests, {clients} clients", ("frostline", "mlflow"), rates, GOALS.get(clients), CONDITIONS)]
    for percent in ("p50", "p95"):
        runs = {name: side.milliseconds(asked, answers[name], percent) for name, side in sides.items()}
        value = runs["frostline"].median / runs["mlflow"].median
        told = f"{percent} latency, {clients} clients"
        found.append(Result(told, round(value, 3), "frostline / mlflow", None, False, runs, CONDITIONS))
    return found


if __name__ == "__main__":
    main()
