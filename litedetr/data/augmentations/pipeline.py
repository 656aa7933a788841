"""All random changes of a training image, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from litedetr.data.augmentations.registry import apply_augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.stopwatch import Clock
from litedetr.data.transforms import LabelledImage, crop, flip, resize

if TYPE_CHECKING:
    from litedetr.data.data_config import TransformConfig

LONGEST_BEFORE_CROP = 8192  # pixels; DETR knows no limit, and makes 600x1,200,000 pixels of a strip of 1x2000


def augment(item: LabelledImage, config: TransformConfig, source: Source, clock: Clock = nullcontext) -> LabelledImage:
    """Flip, crop and the configured augmentations, each with its probability, then a random scale.

    clock: gets the steps `augment` and `resize`.
    """
    rng = source.rng
    with clock("augment"):
        if rng.random() < config.flip:
            item = flip(item)
        if config.crop and rng.random() < config.crop_probability:
            item = resize(item, _choose(config.crop_resize_sides, rng), LONGEST_BEFORE_CROP)
            item = _random_crop(item, config.crop_range, rng)
        for name, probability in config.augmentations.items():
            if rng.random() < probability:
                item = apply_augmentation(name, item, source)
    with clock("resize"):
        side = _choose(config.train_sides, rng) if config.train_sides else min(item.size)
        return resize(item, side, config.max_side)


def _random_crop(item: LabelledImage, sides: tuple[int, int], rng: np.random.Generator) -> LabelledImage:
    low, high = sides
    width, height = (int(rng.integers(min(low, full), min(high, full), endpoint=True)) for full in item.size)
    left = int(rng.integers(item.size[0] - width, endpoint=True))
    top = int(rng.integers(item.size[1] - height, endpoint=True))
    return crop(item, left, top, (width, height))


def _choose(sides: Sequence[int], rng: np.random.Generator) -> int:
    return sides[int(rng.integers(len(sides)))]
