"""Both attentions: one call for each, whatever computes it.

backend "reference" is plain PyTorch (kernels/reference.py), which also differentiates twice and in forward mode, and
exports; the others have first derivatives in reverse mode and raise RuntimeError for more. "triton" takes the
fused kernels (kernels/fused); "auto" takes the fastest one for the tensors' device: kernels/cpu on a CPU and on meta,
elsewhere the fused kernels, or the reference where Triton is not installed.

Before a call is captured in a CUDA graph, it must have run once with the same shapes (kernels/constants.py).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from litedetr.kernels import cpu, reference
from litedetr.kernels.arguments import ready
from litedetr.kernels.inputs import Inputs
from litedetr.kernels.plain import is_plain
from litedetr.kernels.points import SamplingPoints

Backend = Literal["auto", "triton", "reference"]
BACKENDS = get_args(Backend)  # here, since torch 2.6 does not compile a function that asks for it
HAS_TRITON = find_spec("triton") is not None


def deformable_attention(
    value: Tensor,
    logits: Tensor,
    points: SamplingPoints,
    backend: Backend = "auto",
    deterministic: bool | None = None,
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, Eq. 3).

    value: (B, S, M, D). logits: (B, Q, M, L * P), before the softmax. Returns (B, Q, M * D).
    deterministic: whether gradients have the same bits every time; None follows
    torch.use_deterministic_algorithms. Under autocast, value and logits are taken in its dtype.
    Raises ValueError if shapes, layouts, dtypes, devices or the backend do not fit, TypeError for a non-tensor.
    """
    inputs = Inputs(None, None, value, logits, points)
    plain = is_plain(inputs)
    return _attend(ready(inputs, "logits", plain), backend, deterministic, plain)


def key_aware_attention(
    query: Tensor,
    value: Tensor,
    points: SamplingPoints,
    key: Tensor | None = None,
    backend: Backend = "auto",
    deterministic: bool | None = None,
) -> Tensor:
    """Key-aware deformable attention (Lite DETR, Eq. 4).

    query: (B, Q, M, D). value, key: (B, S, M, D); without key the values serve as keys. Returns (B, Q, M * D).
    deterministic: as in `deformable_attention`. Under autocast, query, key and value are taken in its dtype.
    Raises ValueError if shapes, layouts, dtypes, devices or the backend do not fit, TypeError for a non-tensor.
    """
    inputs = Inputs(query, key, value, None, points)
    plain = is_plain(inputs)
    return _attend(ready(inputs, "query", plain), backend, deterministic, plain)


def attend(inputs: Inputs, backend: str = "auto", deterministic: bool | None = None) -> Tensor:
    """Either attention on inputs that were checked: (B, Q, M * D)."""
    return _attend(inputs, backend, deterministic, is_plain(inputs))


def _attend(inputs: Inputs, backend: str, deterministic: bool | None, plain: bool) -> Tensor:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if not (deterministic is None or isinstance(deterministic, bool)):
        raise ValueError(f"deterministic: expected True, False or None, got {deterministic!r}")
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    # on meta nothing is computed: the CPU path's operator gives the shapes, and needs no Triton
    on_cpu = inputs.value.device.type in ("cpu", "meta")
    if backend == "triton" and not HAS_TRITON:
        raise ValueError("backend: 'triton' needs the package triton, which is not installed; use 'auto'")
    if backend == "reference" or (backend == "auto" and not on_cpu and not HAS_TRITON):
        return reference.attend(inputs)
    if backend == "auto" and on_cpu:
        return cpu.attend(inputs, deterministic, plain)
    from litedetr.kernels import fused  # only here is Triton needed

    return fused.attend(inputs, deterministic, plain)
