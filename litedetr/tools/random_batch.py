"""Random images with random objects: what a step is timed and counted on."""

from __future__ import annotations

import torch

from litedetr.engine.run_config import ImageSize, Precision
from litedetr.settings import Count, NotNegative, settings
from litedetr.structures import ImageBatch, Target, TargetBatch


@settings()
class RandomBatch:
    """Images of normal noise, and objects at random places to learn."""

    image_size: ImageSize
    batch_size: Count
    num_objects: NotNegative  # of each image
    num_classes: Count
    precision: Precision  # in which they are computed on

    def images(self, device: torch.device) -> ImageBatch:
        pixels = torch.randn(self.batch_size, 3, *self.image_size, generator=torch.Generator().manual_seed(0))
        return ImageBatch(pixels, torch.tensor([self.image_size] * self.batch_size), padded=False).to(device)

    def targets(self, device: torch.device, num_classes: int | None = None) -> TargetBatch:
        """num_classes: those of the batch by default."""
        number = num_classes or self.num_classes
        return random_targets(self.image_size, self.batch_size, self.num_objects, number).to(device)


def random_targets(image_size: tuple[int, int], batch_size: int, num_objects: int, num_classes: int) -> TargetBatch:
    """So many objects in each image, of 5 to 35 % of its sides."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(batch_size, num_objects, 2, generator=generator) * 0.6 + 0.2
    sides = torch.rand(batch_size, num_objects, 2, generator=generator) * 0.3 + 0.05
    boxes = torch.cat([centres, sides], dim=-1)
    labels = torch.randint(num_classes, (batch_size, num_objects), generator=generator)
    return TargetBatch.from_targets([Target(labels[i], boxes[i], i, image_size) for i in range(batch_size)])
