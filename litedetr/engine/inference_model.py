"""A copy of a detector for inference only: what does not change from image to image is done once."""

from __future__ import annotations

import copy

import torch
from torch import nn

from litedetr.engine.precision import DTYPES
from litedetr.engine.run_config import Precision
from litedetr.models import Detector, fold_frozen_norms
from litedetr.models.linear import Linear


def inference_copy(model: Detector, device: torch.device, precision: Precision) -> Detector:
    """A copy of `model` on `device` in evaluation mode, whose detections under `precision` keep their bits on a CPU.

    `model` itself stays as it is. The copy has frozen norms in their convolutions, weights in the dtype and layout that
    they are used in, and no gradients. Its weights are its own, so nothing that happens to `model` afterwards reaches
    it, and a state dict of the one does not load into the other if the backbone has frozen norms.
    """
    own = copy.deepcopy(model).eval().requires_grad_(False)
    fold_frozen_norms(own)
    for module in own.modules():  # round weights once, as autocast does on every call
        if isinstance(module, (Linear, nn.Conv2d)) and module.weight.dtype == torch.float32:
            module.to(DTYPES[precision])
    return own.to_device(device)
