"""Run several jobs one after the other in one process group: starting ranks costs more than these trainings."""

import os
import sys
from pathlib import Path

from torch import distributed
from watching import Watching

from training.job import TrainJob
from training.loop import run_rank

if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for path in sys.argv[1:]:
        run_rank(TrainJob.model_validate_json(Path(path).read_text()), Watching())
    distributed.destroy_process_group()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)  # as `python -m training.train` does, and why
