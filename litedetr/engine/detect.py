"""Detect in a batch of images: a detector for inference only, its forward pass, and its best detections."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litedetr.engine.precision import DTYPES, autocast, full_precision
from litedetr.engine.run_config import Precision
from litedetr.models import Detector, fold_frozen_norms
from litedetr.postprocess import pack, unpack
from litedetr.structures import Detections, ImageBatch


def inference_copy(model: Detector, device: torch.device, precision: Precision) -> Detector:
    """A copy of `model` on `device` in evaluation mode, whose detections under `precision` keep their bits on a CPU.

    `model` itself stays as it is. The copy has frozen norms in their convolutions, weights in the dtype and layout that
    they are used in, and no gradients. Its weights are its own, so nothing that happens to `model` afterwards reaches
    it, and a state dict of the one does not load into the other if the backbone has frozen norms.
    """
    own = copy.deepcopy(model).eval().requires_grad_(False)
    fold_frozen_norms(own)
    for module in _products(own):  # round weights once, as autocast does on every call
        if module.weight.dtype == torch.float32:
            module.to(DTYPES[precision])
    return own.to_device(device)


def _products(model: Detector) -> Iterator[nn.Module]:
    """The convolutions, and the linear layers behind the backbone: a backbone of `transformers` may ask for a weight's
    dtype.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and not name.startswith("backbone.")):
            yield module


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
