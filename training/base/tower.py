"""A small convolutional vision tower, pretrained to read the cell under each of its patches.

Shapes: B examples, H rows and W columns of patches, V vision width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import RegNetConfig, RegNetModel, ViTImageProcessorPil

from data_prep.sources.scene_text import COLOURS, GRID, Scene
from infra.errors import ConfigError
from training.base.config import ScheduleConfig, TowerConfig

_NOTHING = -1


class SupervisedTower(nn.Module):
    """The tower, and the heads that teach it. The heads are thrown away."""

    def __init__(self, tower: RegNetModel, vision_width: int) -> None:
        super().__init__()
        self.tower = tower
        self.digit_head = nn.Conv2d(vision_width, 11, kernel_size=1)
        self.colour_head = nn.Conv2d(vision_width, len(COLOURS), kernel_size=1)

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        features_BVHW = self.tower(pixels_B3HW).last_hidden_state
        return self.digit_head(features_BVHW), self.colour_head(features_BVHW)


class TowerProblem:
    """Per patch: which digit or none, and which colour. `images` are train-split pictures only."""

    def __init__(
        self,
        config: TowerConfig,
        seed: int,
        images: Sequence[NDArray[np.uint8]],
        scenes: Sequence[Scene],
    ) -> None:
        self.config, self.seed = config, seed
        size_px = config.image_size_px
        for number, image in enumerate(images):
            if image.shape != (size_px, size_px, 3):
                raise ConfigError(
                    f"image {number} has shape {image.shape}; expected ({size_px}, {size_px}, 3). "
                    f"Set tower.image_size_px to the source's image_size_px."
                )
        pixels_NHWC = torch.from_numpy(np.stack(images))
        self.pixels_N3HW = pixels_NHWC.permute(0, 3, 1, 2).contiguous()
        labels = torch.full((len(scenes), 2, GRID, GRID), _NOTHING)
        colours = sorted(COLOURS)
        for number, scene in enumerate(scenes):
            for item in scene.items:
                labels[number, 0, item.row, item.column] = item.digit
                labels[number, 1, item.row, item.column] = colours.index(item.colour)
        self.labels_N2HW = labels

    @property
    def schedule(self) -> ScheduleConfig:
        return self.config.schedule

    def build(self) -> nn.Module:
        config = self.config
        torch.manual_seed(self.seed)
        tower = RegNetModel(
            RegNetConfig(
                embedding_size=config.stem_width,
                hidden_sizes=list(config.stage_widths),
                depths=list(config.stage_layers),
                groups_width=min(config.stage_widths),
                layer_type="x",
            )
        )
        return SupervisedTower(tower, config.stage_widths[-1])

    def loss(self, module: nn.Module, global_step: int) -> Tensor:
        random = torch.Generator().manual_seed((self.seed << 32) + global_step)
        batch = self.schedule.batch_scenes
        scenes_B = torch.randint(len(self.pixels_N3HW), (batch,), generator=random)
        pixels_B3HW = _shifted(self.pixels_N3HW[scenes_B], self.config.shift_px, random)
        digit_logits, colour_logits = module(pixels_B3HW.float() / 127.5 - 1)
        digits_BHW, colours_BHW = self.labels_N2HW[scenes_B].unbind(dim=1)
        digit_loss = functional.cross_entropy(digit_logits, torch.where(digits_BHW == _NOTHING, 10, digits_BHW))
        colour_loss = functional.cross_entropy(colour_logits, colours_BHW, ignore_index=_NOTHING)
        return digit_loss + 0.3 * colour_loss

    def export(self, module: nn.Module, folder: Path) -> None:
        """Tower without heads, and its preprocessing, in one folder."""
        size_px = self.config.image_size_px
        cast(SupervisedTower, module).tower.save_pretrained(folder, safe_serialization=True)
        ViTImageProcessorPil(
            size={"height": size_px, "width": size_px},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ).save_pretrained(folder)


def _shifted(pixels_B3HW: Tensor, shift_px: int, random: torch.Generator) -> Tensor:
    """Each picture moved by its own whole number of pixels; what comes in repeats the border."""
    batch, _, size_px, _ = pixels_B3HW.shape
    moves_B2 = torch.randint(-shift_px, shift_px + 1, (batch, 2), generator=random)
    places_B2S = (torch.arange(size_px) + moves_B2[..., None]).clamp(0, size_px - 1)
    examples_B11 = torch.arange(batch)[:, None, None]
    moved_BHW3 = pixels_B3HW.permute(0, 2, 3, 1)[examples_B11, places_B2S[:, 0, :, None], places_B2S[:, 1, None, :]]
    return moved_BHW3.permute(0, 3, 1, 2)
