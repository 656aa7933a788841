"""Both attentions: one call for each, whatever computes it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from litedetr.kernels import cpu, reference
from litedetr.kernels.arguments import ready
from litedetr.kernels.backends import Attend
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

    For each query and head, over its K sampling locations p_k on the levels:

        out = sum_k softmax(logits)_k value(p_k)

    value(p) is the value at location p: bilinear between four pixels, or the nearest pixel (`points.sampling`). It is
    zero outside of a level or of its valid part, and the sample keeps its share of the softmax.

    B images, S tokens over all levels, Q queries, M heads, D channels a head, L levels, P points, K = L * P.

    value: (B, S, M, D) projected tokens: the levels one after the other, each in raster order. fp16, bf16, fp32 or
        fp64, of any strides, on a CPU or GPU.
    logits: (B, Q, M, K) of the attention weights, before the softmax, the points of level 0 first. Dtype and device
        of value.
    points: where queries sample: references (relative to the level), offsets (in pixels, or in parts of a box), sizes
        of the levels and of their valid parts. Its tensors lie on the device of value; each may have another of the
        dtypes above.
    backend: what computes. `auto`: on a CPU PyTorch's embedding bags (kernels/cpu), on a GPU the fused Triton kernels
        (kernels/fused), or the reference if Triton is not installed. `triton`: the fused kernels. `reference`: plain
        PyTorch (kernels/reference.py), slower, which also differentiates twice and in forward mode.
    deterministic: whether gradients have the same bits every time. If not, on a GPU those of the values are added by
        atomics, in any order; `reference` leaves it to PyTorch. None: as torch.use_deterministic_algorithms says
        during this call.

    Under autocast value and logits are cast to its dtype, but not fp64 and never the points. What is computed within
    is not lowered further: sums are in fp32, or in fp64 for fp64 inputs.

    Returns (B, Q, M * D) in the dtype of value, as it was cast. All backends give the gradients of value, logits,
    points.reference and points.offsets in reverse mode; with nearest sampling those of the points are zero.

    Raises ValueError if a shape, layout, dtype or device does not fit, if a count is larger than the backend's
    indices hold, if the backend is unknown, is not installed or cannot run on the device of value, or if deterministic
    is neither None nor a bool. Raises TypeError if one of the tensors is not a Tensor. Raises RuntimeError if any
    backend but `reference` is to be differentiated twice or in forward mode, and if a CUDA graph is captured before a
    call of these shapes has run.
    """
    inputs = Inputs(None, None, value, logits, points)
    plain = is_plain(inputs)
    inputs = ready(inputs, "logits", plain)
    return _chosen(inputs, backend, plain)(inputs, _is_deterministic(deterministic))


def key_aware_attention(
    query: Tensor,
    value: Tensor,
    points: SamplingPoints,
    key: Tensor | None = None,
    backend: Backend = "auto",
    deterministic: bool | None = None,
) -> Tensor:
    """Key-aware deformable attention (Lite DETR, Eq. 4).

    For each query q and head, over its K sampling locations p_k on the levels:

        out = sum_k softmax(s)_k value(p_k)        s_k = q . key(p_k) / sqrt(D)

    key(p) and value(p) are key and value at location p: bilinear between four pixels, or the nearest pixel
    (`points.sampling`). They are zero outside of a level or of its valid part: such a sample has the score 0 and keeps
    its share of the softmax.

    B images, S tokens over all levels, Q queries, M heads, D channels a head, L levels, P points, K = L * P.

    query: (B, Q, M, D) projected queries, not yet divided by sqrt(D). Dtype and device of value.
    value: (B, S, M, D) projected tokens: the levels one after the other, each in raster order. fp16, bf16, fp32 or
        fp64, of any strides, on a CPU or GPU.
    points: where queries sample: references (relative to the level), offsets (in pixels, or in parts of a box), sizes
        of the levels and of their valid parts. Its tensors lie on the device of value; each may have another of the
        dtypes above.
    key: (B, S, M, D) projected tokens in the order of value, with its dtype and device. None: the values are the keys,
        and are read only once.
    backend: what computes. `auto`: on a CPU PyTorch's embedding bags (kernels/cpu), on a GPU the fused Triton kernels
        (kernels/fused), or the reference if Triton is not installed. `triton`: the fused kernels. `reference`: plain
        PyTorch (kernels/reference.py), slower, which also differentiates twice and in forward mode.
    deterministic: whether gradients have the same bits every time. If not, on a GPU those of values and keys are added
        by atomics, in any order; `reference` leaves it to PyTorch. None: as torch.use_deterministic_algorithms says
        during this call.

    Under autocast query, key and value are cast to its dtype, but not fp64 and never the points. What is computed
    within is not lowered further: sums are in fp32, or in fp64 for fp64 inputs.

    Returns (B, Q, M * D) in the dtype of value, as it was cast. All backends give the gradients of query, key, value,
    points.reference and points.offsets in reverse mode; with nearest sampling those of the points are zero.

    Raises ValueError if a shape, layout, dtype or device does not fit, if a count is larger than the backend's
    indices hold, if the backend is unknown, is not installed or cannot run on the device of value, or if deterministic
    is neither None nor a bool. Raises TypeError if one of the tensors is not a Tensor. Raises RuntimeError if any
    backend but `reference` is to be differentiated twice or in forward mode, and if a CUDA graph is captured before a
    call of these shapes has run.
    """
    inputs = Inputs(query, key, value, None, points)
    plain = is_plain(inputs)
    inputs = ready(inputs, "query", plain)
    return _chosen(inputs, backend, plain)(inputs, _is_deterministic(deterministic))


def attend(inputs: Inputs, backend: Backend = "auto", deterministic: bool | None = None) -> Tensor:
    """`deformable_attention` if the inputs have logits, else `key_aware_attention`, on inputs that fit.

    inputs: the arguments of either one, not checked again and not cast for autocast.
    backend: as there.
    deterministic: as there.

    Returns (B, Q, M * D) in the dtype of inputs.value. Raises ValueError for the backend and for counts, and
    RuntimeError, as there.
    """
    return _chosen(inputs, backend, is_plain(inputs))(inputs, _is_deterministic(deterministic))


def _chosen(inputs: Inputs, backend: str, plain: bool) -> Attend:
    """What computes a call. Raises ValueError if the backend is unknown or cannot run here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    device = inputs.value.device
    # on meta nothing is computed: the CPU path's operator gives the shapes, and needs no Triton
    on_cpu = device.type in ("cpu", "meta")
    if backend == "triton" and not HAS_TRITON:
        raise ValueError("backend: 'triton' needs the package triton, which is not installed; use 'auto'")
    if backend == "reference" or (backend == "auto" and not on_cpu and not HAS_TRITON):
        return _by_reference
    if backend == "auto" and on_cpu:
        attention = cpu.attention
    else:
        from litedetr.kernels import fused  # only here is Triton needed

        attention = fused.attention_on(device)
    return attention.eager if plain else attention.operator


def _by_reference(inputs: Inputs, deterministic: bool) -> Tensor:
    return reference.attend(inputs)


def _is_deterministic(asked: bool | None) -> bool:
    """Raises ValueError if `asked` is neither None nor a bool."""
    if not (asked is None or isinstance(asked, bool)):
        raise ValueError(f"deterministic: expected True, False or None, got {asked!r}")
    return torch.are_deterministic_algorithms_enabled() if asked is None else asked
