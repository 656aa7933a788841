"""The fused kernels (Triton), for GPUs; with TRITON_INTERPRET=1 also on a CPU, slowly."""

from __future__ import annotations

from torch import Tensor
from triton import JITFunction

from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.forward import forward_kernel
from litedetr.kernels.inputs import Inputs
from litedetr.kernels.registration import register

_attend = register("attention_fused", FusedBackend())


def attend(inputs: Inputs, deterministic: bool, plain: bool) -> Tensor:
    """(B, Q, M * D); plain: see kernels/plain.py. Raises ValueError on a CPU unless kernels are interpreted."""
    if inputs.value.device.type == "cpu" and isinstance(forward_kernel, JITFunction):
        raise ValueError("backend: 'triton' needs tensors on a GPU, got cpu; TRITON_INTERPRET=1 interprets the kernels")
    return _attend(inputs, deterministic, plain)
