"""What worker processes are told before they start."""

import os
import subprocess
import sys

from infra.ray import worker_environment

MAKE_ARRAYS = """
import resource
import numpy
numpy.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    numpy.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES_OF_AN_ARRAY = 2**23 * 8 // os.sysconf("SC_PAGE_SIZE")


def test_a_worker_uses_the_memory_of_its_last_large_array_for_the_next() -> None:
    """Without the allocator's settings, five arrays cost the page faults of five (81,926 were seen, 1 with them)."""
    environment = {**os.environ, **worker_environment(1, 0), "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run([sys.executable, "-c", MAKE_ARRAYS], env=environment, capture_output=True, check=True)
    assert int(done.stdout) < PAGES_OF_AN_ARRAY
