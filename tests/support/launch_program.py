"""A training under Ray Train in a process of its own, which is asked to stop as `frostline run` would be."""

import sys
from pathlib import Path

import ray

from infra.errors import FrostlineError
from infra.progress import Silent
from training.job import TrainJob
from training.launch import launch


def main(job: str) -> int:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 * 2**20)
    try:
        launch(TrainJob.model_validate_json(Path(job).read_text()), Silent())
    except FrostlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
