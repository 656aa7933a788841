"""From a batch of images to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from litedetr.engine.config import Precision
from litedetr.engine.precision import autocast, full_precision
from litedetr.postprocess import postprocess
from litedetr.structures import Detections, ImageBatch


@torch.no_grad()
def detect(
    model: nn.Module, images: ImageBatch, original_sizes: Sequence[tuple[int, int]], precision: Precision
) -> list[Detections]:
    """The 300 best detections of each image, best first, on the device of `images`.

    original_sizes: (height, width) of each image, in whose pixels the boxes are given.
    """
    with autocast(images.pixels.device, precision):
        output = model(images)
    return postprocess(full_precision(output.predictions), original_sizes)
