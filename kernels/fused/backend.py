"""The fused kernels as a backend of kernels/registration.py: allocates, launches, casts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from litedetr.kernels.fused.backward import backward_kernel
from litedetr.kernels.fused.call import Call, Launcher, contiguous, launch_kernel
from litedetr.kernels.fused.deterministic import Samples, add_up
from litedetr.kernels.fused.forward import forward_kernel
from litedetr.kernels.fused.launch import Launch, Segments, Shape, choose
from litedetr.kernels.fused.sizes import power_of_two
from litedetr.kernels.inputs import Gradients, Inputs, Saved

MOST_LOGITS = 16  # of a query head, that are normalised at a time


class FusedBackend:
    """See litedetr.kernels.backends.Backend."""

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
    samples = inputs.points.offsets.shape[3:5].numel()
    call.over_queries(
        forward_kernel,
        out,
        log_sum_exp,
        LOWEST=torch.finfo(call.real).min,
        BLOCK_LOGITS=min(power_of_two(samples), MOST_LOGITS),
    )
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

    Those of values and keys are added up in full precision and cast once: by atomics; or, deterministic, from the
    sorted samples. segments: how they are added up then, None: as is best on the device.
    """
    call = Call.of(inputs, launch, launcher)
    if deterministic:
        segments = segments or choose(Shape.of("segments", inputs), inputs.value.device)
    samples = Samples.empty(call, segments) if deterministic else Samples()
    grads = _buffers(call, deterministic, reference_grad)
    call.over_queries(
        backward_kernel,
        saved.out,
        saved.log_sum_exp,
        contiguous(grad_out),
        *grads.tensors,
        *samples,
        SCATTER=not deterministic,
        REFERENCE_GRAD=reference_grad,
    )
    if deterministic:
        add_up(call, segments, samples, grad_out, grads)
    reference = grads.reference.sum(2).to(inputs.points.reference.dtype) if reference_grad else None
    in_halves = call.plan.query_constants["PACKED"] and not deterministic
    key, value = (None if x is None else _restored(x, inputs.value, in_halves) for x in (grads.key, grads.value))
    return replace(grads, key=key, value=value, reference=reference)


def _restored(table: Tensor, like: Tensor, in_halves: bool) -> Tensor:
    """The gradient (B, S, M, D) in its final precision. in_halves: even channels precede odd ones."""
    if not in_halves:
        return table.to(like.dtype)
    pairs = table.unflatten(-1, (2, -1)).transpose(-1, -2)
    return torch.empty_like(pairs, dtype=like.dtype, memory_format=torch.contiguous_format).copy_(pairs).flatten(-2)


def _buffers(call: Call, deterministic: bool, reference_grad: bool) -> Gradients:
    """Each is written whole but for the tables that atomics add to; the reference has a part for each head."""
    inputs = call.inputs

    def empty(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.new_empty(x.shape)

    def table(x: Tensor | None) -> Tensor | None:
        new = torch.empty if deterministic else torch.zeros
        return None if x is None else new(x.shape, dtype=call.real, device=x.device)

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
