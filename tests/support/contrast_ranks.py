"""What each rank of a group computes of one batch: its losses, and its gradients summed over the ranks."""

import sys
from pathlib import Path

import torch
from torch import distributed

from training.objectives.contrast import ContrastKind, ContrastLoss, Pairs

NUM_IMAGES, NUM_TEXTS, WIDTH = 7, 16, 5


def batch() -> tuple[torch.Tensor, torch.Tensor, Pairs]:
    """Seven images with one to four texts, of which some read the same; one text and one image are padding."""
    generator = torch.Generator().manual_seed(0)
    image_IE = torch.randn(NUM_IMAGES, WIDTH, generator=generator)
    text_XE = torch.randn(NUM_TEXTS, WIDTH, generator=generator)
    image_of_text_X = torch.tensor([0, 0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6])
    weight_X = torch.rand(NUM_TEXTS, generator=generator) + 0.5
    weight_X[[6, 15]] = 0.0  # the second text of image 2; all of image 6
    text_id_X = torch.arange(NUM_TEXTS)
    text_id_X[[6, 8, 12]] = 1
    return image_IE, text_XE, Pairs(image_of_text_X, text_id_X, weight_X)


def share_of(images: range) -> tuple[torch.Tensor, torch.Tensor, Pairs]:
    """The part of the batch that a rank with these images holds."""
    image_IE, text_XE, (image_of_X, text_id_X, weight_X) = batch()
    own_X = (image_of_X >= images.start) & (image_of_X < images.stop)
    pairs = Pairs(image_of_X[own_X] - images.start, text_id_X[own_X], weight_X[own_X])
    return image_IE[images.start : images.stop], text_XE[own_X], pairs


def losses_and_gradients(kind: ContrastKind, images: range) -> dict[str, torch.Tensor]:
    image_IE, text_XE, pairs = share_of(images)
    loss = ContrastLoss(kind)
    with torch.no_grad():
        loss.log_temperature.fill_(1.0)  # at their start most terms vanish
        if loss.bias is not None:
            loss.bias.fill_(-1.0)
    leaves = {"image": image_IE.requires_grad_(), "text": text_XE.requires_grad_(), **dict(loss.named_parameters())}
    unit = torch.nn.functional.normalize
    total = loss(unit(image_IE, dim=1), unit(text_XE, dim=1), pairs)
    total.backward()
    return {"loss": total.detach(), **{name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    for kind in ("siglip", "infonce"):
        found = losses_and_gradients(kind, (range(5), range(5, NUM_IMAGES))[rank])
        torch.save(found, Path(sys.argv[1]) / f"{kind}-{rank}.pt")
    distributed.destroy_process_group()
