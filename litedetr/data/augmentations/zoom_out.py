"""A smaller image on an empty canvas: small objects."""

from __future__ import annotations

import torch
from torch import Tensor

from litedetr.data.augmentations.registry import augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.augmentations.windows import cut
from litedetr.data.transforms import LabelledImage

RATIO = (1.0, 4.0)  # sides of the canvas over those of the image on it
MEAN_COLOUR = (124, 116, 104)  # of ImageNet, so that the normalised canvas is about zero


@augmentation
def zoom_out(item: LabelledImage, source: Source) -> LabelledImage:
    """The image at a random place of a canvas that is up to four times as wide (SSD, Liu et al., 2016, section 3.6).

    The canvas has the size that the image had, and the image shrinks: the same as SSD's, which is resized after it,
    but for what the detector pays. Objects that become smaller than LEAST_SIDE are dropped.
    """
    rng, (width, height) = source.rng, item.size
    ratio = rng.uniform(*RATIO)
    size = max(round(width / ratio), 1), max(round(height / ratio), 1)
    left, top = (int(rng.integers(full - new, endpoint=True)) for full, new in zip(item.size, size, strict=True))
    small = cut(item, (0, 0, width, height), size)
    pixels = _canvas(width, height)
    pixels[:, top : top + size[1], left : left + size[0]] = small.image
    return LabelledImage(pixels, small.boxes + torch.tensor([left, top, left, top]), small.labels)


def _canvas(width: int, height: int) -> Tensor:
    """(3, height, width) uint8, channels last in memory."""
    row = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).repeat(width)
    return row.expand(height, -1).contiguous().view(height, width, 3).permute(2, 0, 1)
