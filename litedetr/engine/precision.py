"""Mixed precision: names and dtypes, autocast, and back to at least fp32."""

from __future__ import annotations

from dataclasses import replace

import torch

from litedetr.engine.run_config import Precision
from litedetr.settings import require
from litedetr.structures import Predictions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {name: own for own, dtype in DTYPES.items() for name in (own, dtype, str(dtype).removeprefix("torch."))}


def choose_precision(precision: Precision | str | torch.dtype) -> Precision:
    """fp32, bf16 or fp16, of these, of a dtype or of its name, `torch.bfloat16` or "bfloat16". Else ConfigError."""
    known = isinstance(precision, (str, torch.dtype)) and precision in NAMES
    require(known, "precision", f"one of {', '.join(DTYPES)}, or the same dtype", precision)
    return NAMES[precision]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass. ConfigError for an unknown precision, which would be fp32 otherwise."""
    dtype = DTYPES[choose_precision(precision)]
    half = None if dtype == torch.float32 else dtype
    return torch.autocast(device.type, half, enabled=half is not None)


def full_precision(predictions: Predictions) -> Predictions:
    """At least fp32: half-precision scores tie, and half-precision boxes move by pixels."""
    tensors = (predictions.class_logits, predictions.boxes)
    logits, boxes = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)
    return replace(predictions, class_logits=logits, boxes=boxes)
