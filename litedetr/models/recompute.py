"""Activation checkpointing: inner values of a layer are computed again in the backward pass, for less memory."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def run(layer: nn.Module, *args: object, recompute: bool) -> Any:
    """layer(*args); with `recompute` training keeps only the arguments for the backward pass (arXiv 1604.06174)."""
    if recompute and layer.training:
        return checkpoint(layer, *args, use_reentrant=False)
    return layer(*args)
