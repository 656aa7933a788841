"""Four images as one."""

from __future__ import annotations

import torch

from litedetr.data.augmentations.registry import augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.augmentations.windows import cut, fit_scale, random_window
from litedetr.data.transforms import LabelledImage

CENTRE = (0.3, 0.7)  # where the four meet, relative to the image
SCALE = (0.5, 1.0)  # of each image; 1: as large as if it filled the whole picture


@augmentation
def mosaic(item: LabelledImage, source: Source) -> LabelledImage:
    """The image and three others, one in each corner (YOLOv4, Bochkovskiy et al., 2020, section 3.3).

    The picture has the first image's size, so it costs the detector no more than that image. The four meet at a random
    point. Each is scaled as if to fit the whole picture, then by a factor from SCALE, more if it would not fill its
    corner; of that a random window is cut. So nothing is enlarged beyond its own size if all images have the same, and
    no pixel is empty. Objects of which less than LEAST_VISIBLE is left are dropped. With `augmentations` that
    follow, this is the dense one-to-one of DEIM (Huang et al., 2025): more objects for the same queries.
    """
    rng, (width, height) = source.rng, item.size
    x, y = (_within(round(full * rng.uniform(*CENTRE)), full) for full in (width, height))
    corners = [(0, 0, x, y), (x, 0, width - x, y), (0, y, x, height - y), (x, y, width - x, height - y)]
    order = rng.permutation(4)  # which corner the first image has
    pixels = torch.empty((height, width, 3), dtype=torch.uint8).permute(2, 0, 1)
    boxes, labels = [], []
    for number, corner in enumerate(order):
        left, top, *size = corners[corner]
        if 0 in size:  # of an image that is one pixel wide
            continue
        whole = source.other() if number else item
        scale = fit_scale(whole, item.size) * rng.uniform(*SCALE)
        part = cut(whole, random_window(whole, tuple(size), scale, rng), tuple(size))
        pixels[:, top : top + size[1], left : left + size[0]] = part.image
        boxes.append(part.boxes + torch.tensor([left, top, left, top]))
        labels.append(part.labels)
    return LabelledImage(pixels, torch.cat(boxes), torch.cat(labels))


def _within(position: int, full: int) -> int:
    """At least one pixel on both sides, if there are two."""
    return min(max(position, 1), max(full - 1, 1))
