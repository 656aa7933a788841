"""Mixed precision: where it begins and where it ends."""

from __future__ import annotations

from dataclasses import replace

import torch

from litedetr.engine.config import Precision
from litedetr.structures import Predictions

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass."""
    return torch.autocast(device.type, HALF_DTYPES.get(precision), enabled=precision in HALF_DTYPES)


def full_precision(predictions: Predictions) -> Predictions:
    """At least fp32: half-precision scores tie, and half-precision boxes move by pixels."""
    tensors = (predictions.class_logits, predictions.boxes)
    logits, boxes = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)
    return replace(predictions, class_logits=logits, boxes=boxes)
