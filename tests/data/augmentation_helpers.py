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


def drawn(size: tuple[int, int], objects: dict[int, tuple[int, int, int, int]]) -> LabelledImage:
    """Rectangles on black: `objects` are xyxy boxes by label. The red channel of an object is its label."""
    width, height = size
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for label, (x1, y1, x2, y2) in objects.items():
        image[0, y1:y2, x1:x2] = label
    boxes = torch.tensor([*objects.values()], dtype=torch.float32).reshape(-1, 4)
    return LabelledImage(image, boxes, torch.tensor([*objects], dtype=torch.int64))


def extent(image: Tensor, label: int) -> tuple[int, ...]:
    """Tight xyxy box of the pixels whose red channel is `label`, give or take what resizing rounds."""
    rows, columns = np.nonzero(abs(image[0].numpy().astype(int) - label) <= 2)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
