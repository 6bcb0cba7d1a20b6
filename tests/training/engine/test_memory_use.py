import subprocess
import sys

PROGRAM = """
import torch
from training.memory_use import peak_memory_bytes
before = peak_memory_bytes(torch.device("cpu"))
torch.ones(16 * 2**20)  # 64 MiB, freed at once
print(before, peak_memory_bytes(torch.device("cpu")))
"""


def test_the_peak_is_that_of_this_process_and_stays_when_memory_is_freed() -> None:
    """And not that of the process that started it, which holds 512 MiB more."""
    held = bytearray(512 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    before, after = (int(number) for number in told.stdout.split())
    assert 64 * 2**20 <= after - before < 80 * 2**20
    assert before < len(held)
