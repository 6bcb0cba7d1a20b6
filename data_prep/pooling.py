"""From a tower's hidden state to the vectors that are stored.

Shapes: B images, N tokens of a transformer, E its class and register tokens, R × C the patch grid, P patches kept,
V vision width, H × W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

POOLINGS = r"^(cls|mean|patches|grid:[1-9][0-9]{0,2})$"


def pool(hidden: Tensor, size_px: tuple[int, int], patch_px: Any, pooling: str) -> Tensor:
    """[B, N, V] or [B, V, R, C] → [B, P, V]. Raises ConfigError where the tower has nothing to take."""
    tokens_BEV, grid_BRCV = _parted(hidden, size_px, patch_px)
    if pooling == "cls":
        if not tokens_BEV.shape[1]:
            raise ConfigError(
                "featurize.pooling is cls, but this tower has no class token; expected one of mean, patches, grid:k. "
                "Change this value."
            )
        return tokens_BEV[:, :1]
    if pooling == "patches":
        return grid_BRCV.flatten(1, 2)
    side = 1 if pooling == "mean" else int(pooling.removeprefix("grid:"))
    return _averaged(grid_BRCV, side)


def _averaged(grid_BRCV: Tensor, side: int) -> Tensor:
    from torch.nn.functional import adaptive_avg_pool2d

    _, rows, columns, _ = grid_BRCV.shape
    if side > min(rows, columns):
        raise ConfigError(
            f"featurize.pooling is grid:{side}, but this tower's patches form a grid of {rows} × {columns}; expected "
            f"at most grid:{min(rows, columns)}. Change this value."
        )
    return adaptive_avg_pool2d(grid_BRCV.float().permute(0, 3, 1, 2), side).flatten(2).transpose(1, 2)


def _parted(hidden: Tensor, size_px: tuple[int, int], patch_px: Any) -> tuple[Tensor, Tensor]:
    """Class and register tokens [B, E, V], which come first, and the grid of patches [B, R, C, V], row by row."""
    if hidden.ndim == 4:  # a feature map
        grid_BRCV = hidden.permute(0, 2, 3, 1)
        return grid_BRCV[:, 0, :0], grid_BRCV
    if patch_px is None:
        raise ConfigError(
            "this tower gives a sequence and its config.json has no patch_size; expected a vision transformer or a "
            "convolutional tower. Take another vision_tower."
        )
    height_px, width_px = patch_px if isinstance(patch_px, (tuple, list)) else (patch_px, patch_px)
    rows, columns = size_px[0] // height_px, size_px[1] // width_px
    while rows * columns > hidden.shape[1]:  # each stage of a hierarchical transformer halves the grid
        rows, columns = rows // 2, columns // 2
    num_tokens = hidden.shape[1] - rows * columns
    grid_BRCV = hidden[:, num_tokens:].reshape(len(hidden), rows, columns, -1)
    return hidden[:, :num_tokens], grid_BRCV
