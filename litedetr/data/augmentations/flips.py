"""Mirror images."""

from __future__ import annotations

from litedetr.data.augmentations.registry import augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.transforms import LabelledImage, flip_vertically


@augmentation
def vertical_flip(item: LabelledImage, source: Source) -> LabelledImage:
    """For images without an up and down: from a microscope, or from above."""
    return flip_vertically(item)
