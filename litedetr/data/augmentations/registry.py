"""The choices of `data.transforms.augmentations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from litedetr.data.augmentations.source import Source
from litedetr.data.transforms import LabelledImage
from litedetr.registry import Registry

# it returns an image of any size, uint8 RGB (3, h, w), with its boxes, xyxy in pixels of that image, and their labels
Augmentation: TypeAlias = Callable[[LabelledImage, Source], LabelledImage]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")  # by the name of the function


def augmentation(change: Augmentation) -> Augmentation:
    """Decorates a function (image with boxes, source) -> image with boxes: a choice of `augmentations`."""
    return AUGMENTATIONS.register(change.__name__, change)


def apply_augmentation(name: str, item: LabelledImage, source: Source) -> LabelledImage:
    """`item` changed by the augmentation of this name. Raises ValueError if what it returns does not fit."""
    changed = AUGMENTATIONS[name](item, source)
    _require_fitting(changed, name)
    return changed


def _require_fitting(item: LabelledImage, name: str) -> None:
    """For those who write an augmentation: floats would pass for normalised pixels, and one channel for three."""
    image, boxes, labels = item.image, item.boxes, item.labels
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        got = f"{image.dtype} {tuple(image.shape)}"
        raise ValueError(f"augmentation {name}: expected it to return an image torch.uint8 (3, h, w), got {got}")
    if boxes.shape != (len(labels), 4):
        got = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"augmentation {name}: expected it to return boxes (N, 4) and labels (N,), got {got}")
