"""The seam: one call for each attention, whatever computes it.

backend "reference" is plain PyTorch (kernels/reference.py), which also differentiates twice and exports; "triton" the
fused kernels; "auto" takes the fastest one for the tensors' device, on a CPU kernels/cpu.py.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal, get_args

from torch import Tensor

from kernels import cpu, reference
from kernels.points import SamplingPoints, check_tensor

Backend = Literal["auto", "triton", "reference"]


def deformable_attention(value: Tensor, logits: Tensor, points: SamplingPoints, backend: Backend = "auto") -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, Eq. 3).

    value: (B, S, M, D). logits: (B, Q, M, L * P), before the softmax. Returns (B, Q, M * D).
    Raises ValueError where shapes, devices or the backend do not fit.
    """
    points.check(value)
    check_tensor(
        "logits", logits, (*points.offsets.shape[:3], points.offsets.shape[3] * points.offsets.shape[4]), value
    )
    return _implementation(backend, value).deformable_attention(value, logits, points)


def key_aware_attention(
    query: Tensor, value: Tensor, points: SamplingPoints, key: Tensor | None = None, backend: Backend = "auto"
) -> Tensor:
    """Key-aware deformable attention (Lite DETR, Eq. 4).

    query: (B, Q, M, D). value, key: (B, S, M, D); without key the values serve as keys. Returns (B, Q, M * D).
    Raises ValueError where shapes, devices or the backend do not fit.
    """
    points.check(value)
    check_tensor("query", query, (*points.offsets.shape[:3], value.shape[-1]), value)
    if key is not None:
        check_tensor("key", key, tuple(value.shape), value)
    return _implementation(backend, value).key_aware_attention(query, value, points, key)


def _implementation(backend: str, value: Tensor) -> ModuleType:
    """The module that computes it: kernels.cpu or kernels.reference."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend: expected one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "triton":
        raise ValueError("backend: 'triton' has no kernels yet, use 'auto' or 'reference'")
    return cpu if backend == "auto" and value.device.type == "cpu" else reference
