"""Geometric transforms of an image and its boxes, as DETR trains with them (Carion et al., 2020).

The random ones draw from the generator that they are handed and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from litedetr.data.data_config import TransformConfig
from litedetr.data.read_images import resized, to_pixels
from litedetr.data.stopwatch import Clock

LONGEST_BEFORE_CROP = 8192  # pixels; DETR knows no limit, and makes 600x1,200,000 pixels of a strip of 1x2000


@dataclass(frozen=True)
class LabelledImage:
    """An image and its objects."""

    image: Tensor  # (3, h, w) uint8 RGB
    boxes: Tensor  # (N, 4) float32 xyxy in pixels
    labels: Tensor  # (N,) int64

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        height, width = self.image.shape[-2:]
        return width, height


def augment(
    item: LabelledImage, config: TransformConfig, rng: np.random.Generator, clock: Clock = nullcontext
) -> LabelledImage:
    """Random flip, random crop, random scale. clock: gets the steps `augment` and `resize`."""
    with clock("augment"):
        if rng.random() < config.flip:
            item = flip(item)
        if config.crop and rng.random() < config.crop_probability:
            item = resize(item, _choose(config.crop_resize_sides, rng), LONGEST_BEFORE_CROP)
            item = _random_crop(item, config.crop_range, rng)
    with clock("resize"):
        side = _choose(config.train_sides, rng) if config.train_sides else min(item.size)
        return resize(item, side, config.max_side)


def for_evaluation(item: LabelledImage, config: TransformConfig) -> LabelledImage:
    """Resize to the evaluation size."""
    return _resized(item, evaluation_size(item.size, config))


def evaluation_size(size: tuple[int, int], config: TransformConfig) -> tuple[int, int]:
    """(width, height) that an image of `size` (width, height) is resized to for evaluation."""
    return resized_size(size, config.eval_side or min(size), config.max_side)


def evaluation_pixels(image: Image.Image, config: TransformConfig) -> Tensor:
    """An RGB image to (3, h, w) uint8, resized as in evaluation."""
    return resized(to_pixels(image), evaluation_size(image.size, config))


def resize(item: LabelledImage, side: int, max_side: int | None = None) -> LabelledImage:
    """Resize the shortest side to `side`, or less if the longest would exceed `max_side`; boxes follow exactly."""
    return _resized(item, resized_size(item.size, side, max_side))


def _resized(item: LabelledImage, new: tuple[int, int]) -> LabelledImage:
    old = item.size
    if new == old:
        return item
    scale = torch.tensor([new[0] / old[0], new[1] / old[1]]).repeat(2)
    return LabelledImage(resized(item.image, new), item.boxes * scale, item.labels)


def resized_size(size: tuple[int, int], side: int, max_side: int | None = None) -> tuple[int, int]:
    """(width, height) with the shortest side `side`, less if the longest would exceed `max_side`.

    Rounds as DETR does, except for very long images: DETR's rounding takes them a few pixels beyond the cap.
    """
    shortest, longest = min(size), max(size)
    if max_side is not None and longest / shortest * side > max_side:
        side = max(round(max_side * shortest / longest), 1)
    longest = int(side * longest / shortest)
    longest = longest if max_side is None else min(longest, max_side)
    return (side, longest) if size[0] <= size[1] else (longest, side)


def flip(item: LabelledImage) -> LabelledImage:
    """Mirror left and right."""
    width = item.size[0]
    x1, y1, x2, y2 = item.boxes.unbind(-1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return LabelledImage(item.image.flip(-1), boxes, item.labels)


def crop(item: LabelledImage, left: int, top: int, size: tuple[int, int]) -> LabelledImage:
    """Cut a window of `size` (width, height); boxes are clipped to it, and those with no area left are dropped."""
    width, height = size
    boxes = item.boxes - torch.tensor([left, top, left, top])
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    image = item.image[:, top : top + height, left : left + width]
    return LabelledImage(image, boxes[kept], item.labels[kept])


def _random_crop(item: LabelledImage, sides: tuple[int, int], rng: np.random.Generator) -> LabelledImage:
    low, high = sides
    width, height = (int(rng.integers(min(low, full), min(high, full), endpoint=True)) for full in item.size)
    left = int(rng.integers(item.size[0] - width, endpoint=True))
    top = int(rng.integers(item.size[1] - height, endpoint=True))
    return crop(item, left, top, (width, height))


def _choose(sides: Sequence[int], rng: np.random.Generator) -> int:
    return sides[int(rng.integers(len(sides)))]
