"""Two images in one another."""

from __future__ import annotations

import numpy as np
import torch

from litedetr.data.augmentations.registry import augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.augmentations.windows import cut, random_window
from litedetr.data.transforms import LabelledImage

SHARE = (0.45, 0.55)  # of the other image, as in DEIM


@augmentation
def mixup(item: LabelledImage, source: Source) -> LabelledImage:
    """The weighted mean of the image and another one (Zhang et al., 2018) with the objects of both.

    The form for detection of YOLOX (Ge et al., 2021) and DEIM (Huang et al., 2025): all objects count fully, and the
    share is near one half. Of the other image a random window of the picture's proportions, as large as it can be, is
    resized to the picture.
    """
    rng, whole = source.rng, source.other()
    part = cut(whole, random_window(whole, item.size, 0.0, rng), item.size)
    pixels = blend(item.image, part.image, rng.uniform(*SHARE))
    return LabelledImage(pixels, torch.cat([item.boxes, part.boxes]), torch.cat([item.labels, part.labels]))


def blend(one: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """(3, h, w) uint8, (1 - share) * one + share * other, the share in 256ths, rounded down."""
    of_other = round(256 * share)
    mine, theirs = (x.permute(1, 2, 0).numpy().astype(np.uint16) for x in (one, other))
    total = mine * np.uint16(256 - of_other) + theirs * np.uint16(of_other)  # at most 255 * 256, which 16 bits hold
    return torch.from_numpy((total >> 8).astype(np.uint8)).permute(2, 0, 1)
