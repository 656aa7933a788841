"""Images whose objects can be found again by their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from litedetr.data.augmentations import Source
from litedetr.data.transforms import LabelledImage


def random_source(seed: int, others: Sequence[LabelledImage] = (), flip: float = 0.0) -> Source:
    return Source(np.random.default_rng(seed), others.__getitem__, len(others), flip)


def one_after_the_other(seed: int, others: Sequence[LabelledImage]) -> Source:
    """A source whose other images come in this order."""
    rest = iter(others)
    return Source(np.random.default_rng(seed), lambda index: next(rest), 1)


def coloured(size: tuple[int, int], objects: dict[int, tuple[int, int, int, int]]) -> LabelledImage:
    """Rectangles on black, xyxy by label: object 0 is bright in the red channel, 1 in the green, 2 in the blue one."""
    width, height = size
    image = torch.zeros(height, width, 3, dtype=torch.uint8).permute(2, 0, 1)
    for label, (x1, y1, x2, y2) in objects.items():
        image[label, y1:y2, x1:x2] = 255
    boxes = torch.tensor([*objects.values()], dtype=torch.float32).reshape(-1, 4)
    return LabelledImage(image, boxes, torch.tensor([*objects], dtype=torch.int64))


def extent(image: Tensor, label: int) -> tuple[int, int, int, int] | None:
    """Tight xyxy box of the pixels that are at least half an object's, the brightest being whole ones; None: none."""
    channel = image[label].numpy()
    rows, columns = np.nonzero(channel > channel.max() / 2)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if channel.max() > 40 else None


def noise(size: tuple[int, int], boxes: Sequence[Sequence[float]] = (), seed: int = 0) -> LabelledImage:
    """Every pixel another; boxes with the labels 0, 1, 2, ..."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return LabelledImage(torch.from_numpy(pixels).permute(2, 0, 1), tensor, torch.arange(len(tensor)))
