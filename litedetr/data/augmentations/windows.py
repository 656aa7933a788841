"""Windows that are cut out of an image and resized, with their boxes; what mosaic, mixup and iou_crop share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from litedetr.boxes import area
from litedetr.data.read_images import resized
from litedetr.data.transforms import LabelledImage

LEAST_VISIBLE = 0.2  # share of a box's area that must be left of it when a window is cut
LEAST_SIDE = 2.0  # pixels; smaller boxes are dropped: YOLOv5's limit
Window = tuple[int, int, int, int]  # left, top, width, height in pixels


def cut(item: LabelledImage, window: Window, size: tuple[int, int], kept: Tensor | None = None) -> LabelledImage:
    """The window of an image, resized to `size` (width, height). Boxes are clipped to it and scaled.

    kept: (N,) bool, which boxes stay; None: those of whose area LEAST_VISIBLE lies in the window. Boxes with a side
    below LEAST_SIDE afterwards are dropped in any case.
    """
    left, top, width, height = window
    lengths = torch.tensor([width, height], dtype=torch.float32).repeat(2)
    moved = item.boxes - torch.tensor([left, top, left, top])
    boxes = torch.minimum(moved.clamp(min=0), lengths)
    kept = area(boxes) >= LEAST_VISIBLE * area(moved) if kept is None else kept
    boxes = boxes * (torch.tensor(size, dtype=torch.float32).repeat(2) / lengths)
    kept = kept & (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(dim=1)
    pixels = resized(item.image[:, top : top + height, left : left + width], size)
    return LabelledImage(pixels, boxes[kept], item.labels[kept])


def random_window(item: LabelledImage, size: tuple[int, int], scale: float, rng: np.random.Generator) -> Window:
    """Where to cut so that the window becomes `size` (width, height) when it is resized by `scale`, at a random place.

    If the image is too small for that, a larger scale is taken, so that the window lies within it.
    """
    scale = max(scale, *(new / old for new, old in zip(size, item.size, strict=True)))
    width, height = (min(max(round(new / scale), 1), old) for new, old in zip(size, item.size, strict=True))
    left = int(rng.integers(item.size[0] - width, endpoint=True))
    top = int(rng.integers(item.size[1] - height, endpoint=True))
    return left, top, width, height


def fit_scale(item: LabelledImage, size: tuple[int, int]) -> float:
    """The factor by which the image just fits into `size` (width, height)."""
    return min(new / old for new, old in zip(size, item.size, strict=True))
