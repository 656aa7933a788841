"""Detect in a batch of images: the detector's forward pass, then its best detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litedetr.engine.precision import autocast, full_precision
from litedetr.engine.run_config import Precision
from litedetr.postprocess import pack, unpack
from litedetr.structures import Detections, ImageBatch


@dataclass(frozen=True)
class Forward:
    """All that detection does on the device, without waiting for it."""

    model: nn.Module
    precision: Precision

    @torch.no_grad()
    def __call__(self, images: ImageBatch) -> Tensor:
        """The 300 best detections of each image, (B, 300, 6), as `postprocess.pack` lays them out."""
        with autocast(images.pixels.device, self.precision):
            output = self.model(images)
        return pack(full_precision(output.predictions))


def detect(
    model: nn.Module, images: ImageBatch, original_sizes: Sequence[tuple[int, int]], precision: Precision
) -> list[Detections]:
    """The 300 best detections of each image, best first, on the CPU; one wait for the device.

    original_sizes: (height, width) of each image, in whose pixels the boxes are given.
    """
    return unpack(Forward(model, precision)(images), original_sizes)
