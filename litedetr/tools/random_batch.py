"""Random images with random objects: what a step is timed and counted on."""

from __future__ import annotations

import torch

from litedetr.structures import ImageBatch, Target, TargetBatch


def random_images(image_size: tuple[int, int], batch_size: int) -> ImageBatch:
    """Normal noise, all of one (height, width)."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch_size, 3, *image_size, generator=generator)
    return ImageBatch(pixels, torch.tensor([image_size] * batch_size), padded=False)


def random_targets(image_size: tuple[int, int], batch_size: int, num_objects: int, num_classes: int) -> TargetBatch:
    """So many objects in each image, of 5 to 35 % of its sides."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(batch_size, num_objects, 2, generator=generator) * 0.6 + 0.2
    sides = torch.rand(batch_size, num_objects, 2, generator=generator) * 0.3 + 0.05
    boxes = torch.cat([centres, sides], dim=-1)
    labels = torch.randint(num_classes, (batch_size, num_objects), generator=generator)
    return TargetBatch.from_targets([Target(labels[i], boxes[i], i, image_size) for i in range(batch_size)])
