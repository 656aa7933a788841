"""Where cells and boxes are: centres, and sine embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from litedetr.structures import FeaturePyramid

IMAGE_TEMPERATURE = 20.0
BOX_TEMPERATURE = 10000.0


def sine(x: Tensor, num_features: int, temperature: float) -> Tensor:
    """sin(2 pi x / T^(2i / n)) as feature 2i, and the cosine of the same as feature 2i + 1 (Vaswani et al., 2017).

    x: (...) in [0, 1].
    num_features: n, even.
    temperature: T.
    Returns (..., n).
    """
    exponent = 2 * (torch.arange(num_features, device=x.device) // 2) / num_features
    angle = x.unsqueeze(-1) * (2 * math.pi) / temperature ** exponent.to(x.dtype)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def pixel_embedding(shape: tuple[int, int], valid_size: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """The sine embedding of a level's pixels: C / 2 features of y, then C / 2 of x.

    Positions count from 1 and are relative to the size without padding. On padding a position stops at the last valid
    one, and is 0 if the whole row or column is padding (as published).

    shape: (H, W) of the level.
    valid_size: (B, 2), its (height, width) without padding.
    channels: C.
    Returns (B, H * W, C) of `dtype`.
    """
    height, width = shape
    y, rows = _axis_embedding(height, valid_size[:, 0], channels // 2, dtype)
    x, columns = _axis_embedding(width, valid_size[:, 1], channels // 2, dtype)
    nowhere = sine(y.new_zeros(()), channels // 2, IMAGE_TEMPERATURE)
    y = torch.where(columns[:, None, :, None], y[:, :, None], nowhere)  # (B, H, W, C / 2)
    x = torch.where(rows[:, :, None, None], x[:, None, :], nowhere)
    return torch.cat([y, x], dim=-1).flatten(1, 2)


def _axis_embedding(length: int, valid: Tensor, num_features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(B, length, num_features) embedding and (B, length) which positions are not padding."""
    index = torch.arange(length, device=valid.device)
    limit = valid.to(dtype).unsqueeze(1)
    position = torch.minimum(index.to(dtype) + 1, limit)
    return sine(position / (limit + 1e-6), num_features, IMAGE_TEMPERATURE), index < valid.unsqueeze(1)


def cell_centres(memory: FeaturePyramid, level: int) -> Tensor:
    """(B, H * W, 2), (x, y) of a level's cells relative to the image without padding."""
    height, width = memory.shapes[level]
    ratios = memory.valid_ratios[:, level]
    x, y = (
        (torch.arange(n, device=ratios.device, dtype=ratios.dtype) + 0.5) / (ratio.unsqueeze(-1) * n)
        for n, ratio in zip((width, height), ratios.unbind(-1), strict=True)
    )  # (B, W), (B, H)
    grid = (x.unsqueeze(1).expand(-1, height, -1), y.unsqueeze(2).expand(-1, -1, width))
    return torch.stack(grid, dim=-1).flatten(1, 2)


def reference_points(memory: FeaturePyramid, first_level: int = 0, last_level: int | None = None) -> Tensor:
    """(B, Q, L, 2), (x, y): the centres of the cells of levels [first, last), the encoder's queries, relative to each
    of the L levels with its padding.
    """
    centres = [cell_centres(memory, level) for level in range(len(memory.shapes))[first_level:last_level]]
    if not centres:
        return memory.valid_ratios.unsqueeze(1)[:, :0]
    return torch.cat(centres, dim=1).unsqueeze(2) * memory.valid_ratios.unsqueeze(1)


def box_embedding(boxes: Tensor, channels: int) -> Tensor:
    """The sine embedding of boxes: C / 2 features each of y, x, w, h (DAB-DETR, section 4.2).

    boxes: (B, Q, 4), cxcywh in [0, 1].
    channels: C.
    Returns (B, Q, 2 C).
    """
    x, y, w, h = (sine(side, channels // 2, BOX_TEMPERATURE) for side in boxes.unbind(-1))
    return torch.cat([y, x, w, h], dim=-1)
