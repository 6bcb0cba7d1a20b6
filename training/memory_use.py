"""The most memory a rank has taken."""

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Of the GPU's allocator; on a CPU the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
