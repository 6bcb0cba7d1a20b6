"""Features made worse on purpose, in train mode. Shapes: B images, P patches, V vision width."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.regularisers import AdversarialConfig, RegularisersConfig


def disturbed(patches_BPV: Tensor, config: RegularisersConfig) -> Tensor:
    """With the configured noise, and without the patches that are dropped."""
    if config.feature_noise:
        patches_BPV = noisy(patches_BPV, config.feature_noise)
    if config.feature_dropout:
        kept_BP1 = torch.rand(patches_BPV.shape[:2], device=patches_BPV.device)[..., None] >= config.feature_dropout
        patches_BPV = patches_BPV * kept_BP1
    return patches_BPV


def noisy(patches_BPV: Tensor, deviation: float) -> Tensor:
    """Normal noise of `deviation` times each image's root mean square."""
    scale_B11 = patches_BPV.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return patches_BPV + torch.randn_like(patches_BPV) * scale_B11 * deviation


def adversarial_patches(loss: Callable[[Tensor], Tensor], patches_BPV: Tensor, config: AdversarialConfig) -> Tensor:
    """The features inside each image's ball where gradient ascent on `loss` ends. No parameter gets a gradient.

    Steps are as long as the radius over their number, from a random point half way out."""
    radius_B11 = config.radius * _norms(patches_BPV)
    start_BPV = torch.randn_like(patches_BPV)
    delta_BPV = start_BPV / _norms(start_BPV) * radius_B11 / 2
    for _ in range(config.num_steps):
        point_BPV = (patches_BPV + delta_BPV).detach().requires_grad_(True)
        (gradient_BPV,) = torch.autograd.grad(loss(point_BPV), point_BPV)
        ascent_BPV = gradient_BPV / _norms(gradient_BPV) * radius_B11 / config.num_steps
        delta_BPV = delta_BPV + ascent_BPV
        delta_BPV = delta_BPV * (radius_B11 / _norms(delta_BPV)).clamp(max=1.0)
    return (patches_BPV + delta_BPV).detach()


def _norms(values_BPV: Tensor) -> Tensor:
    """[B, 1, 1], never 0."""
    norms_B: Tensor = torch.linalg.vector_norm(values_BPV.flatten(1), dim=1)
    return norms_B.clamp(min=1e-12)[:, None, None]
