"""Geometric transforms of an image and its boxes: resizing as DETR does (Carion et al., 2020), flips and crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from litedetr.data.read_images import resized, to_pixels

if TYPE_CHECKING:
    from litedetr.data.data_config import TransformConfig


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


def flip_vertically(item: LabelledImage) -> LabelledImage:
    """Mirror top and bottom."""
    height = item.size[1]
    x1, y1, x2, y2 = item.boxes.unbind(-1)
    boxes = torch.stack([x1, height - y2, x2, height - y1], dim=-1)
    return LabelledImage(item.image.flip(-2), boxes, item.labels)


def crop(item: LabelledImage, left: int, top: int, size: tuple[int, int]) -> LabelledImage:
    """Cut a window of `size` (width, height); boxes are clipped to it, and those with no area left are dropped."""
    width, height = size
    boxes = item.boxes - torch.tensor([left, top, left, top])
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    image = item.image[:, top : top + height, left : left + width]
    return LabelledImage(image, boxes[kept], item.labels[kept])
