"""The fused kernels (Triton), for GPUs; with TRITON_INTERPRET=1 also on a CPU, slowly."""

from __future__ import annotations

import torch
from triton import JITFunction

from litedetr.kernels.backends import Attention
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.forward import forward_kernel
from litedetr.kernels.registration import register

_attention = register("attention_fused", FusedBackend())


def attention_on(device: torch.device) -> Attention:
    """The fused kernels for tensors on `device`. Raises ValueError on a CPU unless kernels are interpreted."""
    if device.type == "cpu" and isinstance(forward_kernel, JITFunction):
        raise ValueError("backend: 'triton' needs tensors on a GPU, got cpu; TRITON_INTERPRET=1 interprets the kernels")
    return _attention
