"""What an augmentation draws from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from litedetr.data.transforms import LabelledImage, flip


@dataclass(frozen=True)
class Source:
    """Random numbers, and other images of the set that are chosen by them."""

    rng: np.random.Generator
    load: Callable[[int], LabelledImage]  # the image of an index, as it is stored
    num_images: int  # indices that `load` takes
    flip: float = 0.0  # probability of a horizontal flip of other images

    def other(self) -> LabelledImage:
        """Any image of the set, each as likely as the others, at random mirrored left and right.

        Like the first image before its augmentations, but without DETR's crop. It may be the first image once more.
        """
        item = self.load(int(self.rng.integers(self.num_images)))
        return flip(item) if self.rng.random() < self.flip else item
