"""One-off native build of the DeepSpeed op that CPU ranks need. `python -m training.native`, run by the set-up.

Built here, once, so that the first training does not stall for a minute without a word. It lands in
TORCH_EXTENSIONS_DIR and is found again as long as the same `ninja` comes first on PATH.
"""


def build() -> None:
    """Compile DeepSpeed's shared-memory communication for CPU ranks. Does nothing where it is built, or on a GPU."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        return
    accelerator.create_op_builder("ShareMemCommBuilder").load()


if __name__ == "__main__":
    build()
