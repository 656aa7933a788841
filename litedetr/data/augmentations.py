"""Random changes of training images. A new one is a function here and its probability in a file of conf/transforms/.

They draw from the generator that they are handed and from nothing else, so that an image comes out the same in every
run with the same seed (docs/hacking.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from litedetr.data.stopwatch import Clock
from litedetr.data.transforms import LabelledImage, crop, flip, flip_vertically, resize
from litedetr.registry import Registry

if TYPE_CHECKING:
    from litedetr.data.data_config import TransformConfig

LONGEST_BEFORE_CROP = 8192  # pixels; DETR knows no limit, and makes 600x1,200,000 pixels of a strip of 1x2000

# it returns an image of any size, uint8 RGB (3, h, w), with its boxes, xyxy in pixels of that image, and their labels
Augmentation: TypeAlias = Callable[[LabelledImage, np.random.Generator], LabelledImage]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")  # by the name of the function


def augmentation(change: Augmentation) -> Augmentation:
    """Decorates a function (image with boxes, generator) -> image with boxes: a choice of `augmentations`."""
    return AUGMENTATIONS.register(change.__name__, change)


def augment(
    item: LabelledImage, config: TransformConfig, rng: np.random.Generator, clock: Clock = nullcontext
) -> LabelledImage:
    """Flip, crop and the configured augmentations, each with its probability, then a random scale.

    clock: gets the steps `augment` and `resize`.
    """
    with clock("augment"):
        if rng.random() < config.flip:
            item = flip(item)
        if config.crop and rng.random() < config.crop_probability:
            item = resize(item, _choose(config.crop_resize_sides, rng), LONGEST_BEFORE_CROP)
            item = _random_crop(item, config.crop_range, rng)
        for name, probability in config.augmentations.items():
            if rng.random() < probability:
                item = AUGMENTATIONS[name](item, rng)
                _require_fitting(item, name)
    with clock("resize"):
        side = _choose(config.train_sides, rng) if config.train_sides else min(item.size)
        return resize(item, side, config.max_side)


@augmentation
def vertical_flip(item: LabelledImage, rng: np.random.Generator) -> LabelledImage:
    """For images without an up and down: from a microscope, or from above."""
    return flip_vertically(item)


def _require_fitting(item: LabelledImage, name: str) -> None:
    """For those who write an augmentation: floats would pass for normalised pixels, and one channel for three."""
    image, boxes, labels = item.image, item.boxes, item.labels
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        got = f"{image.dtype} {tuple(image.shape)}"
        raise ValueError(f"augmentation {name}: expected it to return an image torch.uint8 (3, h, w), got {got}")
    if boxes.shape != (len(labels), 4):
        got = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"augmentation {name}: expected it to return boxes (N, 4) and labels (N,), got {got}")


def _random_crop(item: LabelledImage, sides: tuple[int, int], rng: np.random.Generator) -> LabelledImage:
    low, high = sides
    width, height = (int(rng.integers(min(low, full), min(high, full), endpoint=True)) for full in item.size)
    left = int(rng.integers(item.size[0] - width, endpoint=True))
    top = int(rng.integers(item.size[1] - height, endpoint=True))
    return crop(item, left, top, (width, height))


def _choose(sides: Sequence[int], rng: np.random.Generator) -> int:
    return sides[int(rng.integers(len(sides)))]
