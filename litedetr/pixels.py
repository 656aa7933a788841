"""Pixels of a batch: from bytes to the floats that the detector takes, and which of them are padding."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalised(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB to float32 with ImageNet's mean 0 and deviation 1, channels last in memory."""
    rows = pixels.permute(0, 2, 3, 1).flatten(2)  # (B, H, W * 3): RGB, RGB, ...; no copy where channels are last
    floats = _by_image(rows) if pixels.device.type == "cpu" else _at_once(rows)
    return floats.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


def _by_image(rows: Tensor) -> Tensor:
    """(x / 255 - mean) / std, operation by operation; of an image at a time, as a small one stays in a CPU's cache."""
    constants = (torch.tensor(values, dtype=torch.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    mean, std = (values.repeat(rows.shape[2] // 3) for values in constants)
    floats = torch.empty(rows.shape, dtype=torch.float32)
    for image, stored in zip(floats, rows, strict=True):
        image.copy_(stored).div_(255).sub_(mean).div_(std)
    return floats


def _at_once(rows: Tensor) -> Tensor:
    """x * scale + shift, the same to rounding, in one operation."""
    scale, shift = (values.repeat(rows.shape[2] // 3) for values in _affine(rows.device))
    return torch.addcmul(shift, rows, scale)


def inside(sizes: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W) bool, True on the image. sizes: (B, 2), the (height, width) of every image without padding."""
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


@cache
def _affine(device: torch.device) -> tuple[Tensor, Tensor]:
    """(3,) scale and shift. Kept: a copy from the host in every step would wait for the device."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
        scale, shift = 1 / (255 * std), -mean / std
        return scale.to(device, torch.float32), shift.to(device, torch.float32)
