"""The fused kernels as a backend of kernels/registration.py: allocates, launches, casts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from litedetr.kernels.fused.backward import backward_kernel
from litedetr.kernels.fused.call import Call, Launcher, contiguous, launch_kernel
from litedetr.kernels.fused.deterministic import Samples, add_up
from litedetr.kernels.fused.forward import forward_kernel
from litedetr.kernels.fused.launch import Launches, choose, shape_of
from litedetr.kernels.fused.sizes import power_of_two
from litedetr.kernels.inputs import Gradients, Inputs, Saved

MOST_LOGITS = 16  # of a query head, that are normalised at a time


@dataclass(frozen=True)
class FusedBackend:
    """See litedetr.kernels.backends.Backend."""

    launches: Launches = choose  # says how each pass is launched
    launcher: Launcher = launch_kernel  # gets every launch, in order

    reads_results: ClassVar[bool] = True  # the output and the log-sum-exp

    def forward(self, inputs: Inputs, deterministic: bool) -> Saved:
        """Output and log-sum-exp."""
        value, (batch, queries, heads) = inputs.value, inputs.points.offsets.shape[:3]
        call = Call.of("forward", inputs, self.launches)
        out = value.new_empty(batch, queries, heads, value.shape[3])
        log_sum_exp = value.new_empty(batch, queries, heads, dtype=call.real)
        samples = inputs.points.offsets.shape[3:5].numel()
        self.launcher(
            forward_kernel,
            call.plan.grid,
            *call.arguments(out, log_sum_exp),
            LOWEST=torch.finfo(call.real).min,
            BLOCK_LOGITS=min(power_of_two(samples), MOST_LOGITS),
            **call.plan.query_constants,
        )
        return Saved(out, log_sum_exp)

    def backward(
        self, inputs: Inputs, saved: Saved, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> Gradients:
        """Those of values and keys are added up in full precision and cast once: by atomics; or, deterministic, from
        the sorted samples.
        """
        call = Call.of("backward", inputs, self.launches)
        # deterministic: the kernel leaves coefficients of the samples, which are sorted and added up after it
        segments = self.launches(shape_of("segments", call.sizes), call.sizes.device) if deterministic else None
        samples = Samples.empty(call, segments) if deterministic else Samples()
        grads, grad_out = _buffers(call, deterministic, reference_grad), contiguous(grad_out)
        self.launcher(
            backward_kernel,
            call.plan.grid,
            *call.arguments(saved.out, saved.log_sum_exp, grad_out, *grads.tensors, *samples),
            SCATTER=not deterministic,
            REFERENCE_GRAD=reference_grad,
            **call.plan.query_constants,
        )
        if deterministic:
            add_up(call, segments, samples, self.launcher, grad_out, grads)
        return _in_final_form(grads, call, deterministic)


def _in_final_form(grads: Gradients, call: Call, deterministic: bool) -> Gradients:
    """The tables in the dtype of the values and with channels in order; the sum over the parts of the reference."""
    inputs = call.inputs
    in_halves = call.plan.query_constants["PACKED"] and not deterministic
    key, value = (None if x is None else _restored(x, inputs.value, in_halves) for x in (grads.key, grads.value))
    reference = None if grads.reference is None else grads.reference.sum(2).to(inputs.points.reference.dtype)
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
