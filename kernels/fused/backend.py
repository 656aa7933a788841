"""The fused kernels as a backend of kernels/registration.py: allocates, launches, casts."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from litedetr.kernels.fused.backward import backward_kernel
from litedetr.kernels.fused.call import Call, Launcher, contiguous, launch_kernel
from litedetr.kernels.fused.forward import forward_kernel
from litedetr.kernels.fused.launch import Launch, Segments, Shape, choose
from litedetr.kernels.fused.limits import MOST_INT32
from litedetr.kernels.fused.segments import segment_kernel
from litedetr.kernels.inputs import Gradients, Inputs, Saved


class FusedBackend:
    """See litedetr.kernels.registration.Backend."""

    reads_results = True

    def forward(self, inputs: Inputs, deterministic: bool) -> Saved:
        return forward(inputs, choose(Shape.of("forward", inputs), inputs.value.device))

    def backward(
        self, inputs: Inputs, saved: Saved, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> Gradients:
        launch = choose(Shape.of("backward", inputs), inputs.value.device)
        return backward(inputs, saved, grad_out, launch, deterministic, reference_grad)


def forward(inputs: Inputs, launch: Launch, launcher: Launcher = launch_kernel) -> Saved:
    """Output and log-sum-exp."""
    call = Call.of(inputs, launch, launcher)
    value, (batch, queries, heads) = inputs.value, inputs.points.offsets.shape[:3]
    out = value.new_empty(batch, queries, heads, value.shape[3])
    log_sum_exp = value.new_empty(batch, queries, heads, dtype=call.real)
    call.over_queries(forward_kernel, out, log_sum_exp, LOWEST=torch.finfo(call.real).min)
    return Saved(out, log_sum_exp)


def backward(
    inputs: Inputs,
    saved: Saved,
    grad_out: Tensor,
    launch: Launch,
    deterministic: bool,
    reference_grad: bool,
    launcher: Launcher = launch_kernel,
    segments: Segments | None = None,
) -> Gradients:
    """All gradients, that of the reference only if wanted.

    Those of values and keys are added by atomics in full precision and cast once; or, deterministic, added up from the
    sorted samples. segments: how they are added up, None: as is best on the device.
    """
    call = Call.of(inputs, launch, launcher)
    cells = call.plan.cells
    no_cell = inputs.value.shape[0] * inputs.value.shape[2] * cells
    samples = Samples.empty(call, no_cell) if deterministic else Samples()
    grads = _buffers(call, deterministic, reference_grad)
    call.over_queries(
        backward_kernel,
        saved.out,
        saved.log_sum_exp,
        grad_out,
        *grads.tensors,
        *samples,
        cells,
        no_cell,
        SCATTER=not deterministic,
        REFERENCE_GRAD=reference_grad,
    )
    if deterministic:
        segments = segments or choose(Shape.of("segments", inputs), inputs.value.device)
        add_up(call, segments, samples, grad_out, grads, cells, no_cell)
    reference = grads.reference.sum(2).to(inputs.points.reference.dtype) if reference_grad else None
    key = None if grads.key is None else grads.key.to(inputs.key.dtype)
    return replace(grads, key=key, value=grads.value.to(inputs.value.dtype), reference=reference)


def _buffers(call: Call, deterministic: bool, reference_grad: bool) -> Gradients:
    """Each is written whole but for the tables that atomics add to; the reference has a part for each head."""
    inputs = call.inputs

    def empty(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.new_empty(x.shape)

    def table(x: Tensor | None) -> Tensor | None:
        return empty(x) if deterministic or x is None else x.new_zeros(x.shape, dtype=call.real)

    batch, queries, levels, last = inputs.points.reference.shape
    by_head = (batch, queries, inputs.value.shape[2], levels, last)
    return Gradients(
        query=empty(inputs.query),
        key=table(inputs.key),
        value=table(inputs.value),
        logits=empty(inputs.logits),
        reference=inputs.value.new_empty(by_head, dtype=call.real) if reference_grad else None,
        offsets=empty(inputs.points.offsets),
    )


class Samples(NamedTuple):
    """What pixels need of the samples around them, in place of atomics; None with atomics."""

    p: Tensor | None = None  # (B, Q, M, L, P), attention weight
    d_score: Tensor | None = None  # (B, Q, M, L, P), gradient of the score
    fraction: Tensor | None = None  # (B, Q, M, L, P, 2), position between the pixels
    cell: Tensor | None = None  # (B, Q, M, L, P), which four pixels

    @classmethod
    def empty(cls, call: Call, no_cell: int) -> Samples:
        offsets = call.inputs.points.offsets
        p = offsets.new_empty(offsets.shape[:-1], dtype=call.real)
        cell = torch.empty_like(p, dtype=torch.int32 if no_cell <= MOST_INT32 else torch.int64)
        return cls(p, torch.empty_like(p), offsets.new_empty(offsets.shape, dtype=call.real), cell)


def add_up(
    call: Call, segments: Segments, samples: Samples, grad_out: Tensor, grads: Gradients, cells: int, no_cell: int
) -> None:
    """Write the gradients of key and value."""
    inputs, points = call.inputs, call.inputs.points
    batch, tokens, heads, _ = inputs.value.shape
    cell, order = samples.cell.flatten().sort(stable=True)
    start = torch.searchsorted(cell, torch.arange(no_cell + 1, dtype=cell.dtype, device=cell.device))
    call.launcher(
        segment_kernel,
        (triton.cdiv(tokens, segments.tokens), heads, batch),
        contiguous(inputs.query),
        call.plan.levels,
        contiguous(points.valid_sizes),
        grad_out,
        samples.p,
        samples.d_score,
        samples.fraction,
        order,
        start,
        grads.key,
        grads.value,
        tokens,
        cells,
        **call.plan.constants,
        BLOCK_TOKENS=segments.tokens,
        BLOCK_SAMPLES=segments.samples,
        num_warps=segments.num_warps,
        maxnreg=segments.max_registers,
        num_stages=segments.num_stages,
    )
