"""A backend's forward and backward pass as operators of torch.library.

So torch.compile, torch.export, FLOP counters and other modes take an attention as one step. The backward pass is an
operator of its own, and refuses to be differentiated (kernels/derivatives.py). Calls that nothing
traces or counts do without operators (kernels/plain.py, kernels/eager.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from litedetr.kernels.backends import Attention, Backend
from litedetr.kernels.derivatives import refuse_second, register_derivatives, save_nothing
from litedetr.kernels.eager import eager_attention, save_for_backward
from litedetr.kernels.inputs import Inputs, Saved, full_precision
from litedetr.kernels.points import SamplingPoints

INPUTS = (
    "Tensor? query, Tensor? key, Tensor value, Tensor? logits, Tensor reference, Tensor offsets, "
    "Tensor? valid_sizes, SymInt[] shapes, SymInt[]? query_shapes, str sampling, bool deterministic"
)
FORWARD_SCHEMA = f"({INPUTS}) -> (Tensor out, Tensor log_sum_exp)"
BACKWARD_SCHEMA = (
    f"(Tensor grad_out, Tensor? out, Tensor? log_sum_exp, bool reference_grad, {INPUTS}) "
    "-> (Tensor query, Tensor key, Tensor value, Tensor logits, Tensor reference, Tensor offsets)"
)
NUM_INPUTS = 11
SAMPLE_PRODUCTS = {"bilinear": 4, "nearest": 0}  # multiply-adds of a sample's channel
LIBRARY = torch.library.Library("litedetr", "FRAGMENT")  # operators live as long as it does

Kernel = Callable[..., tuple[Tensor, ...]]


def register(name: str, backend: Backend) -> Attention:
    """Define the operators litedetr::<name> and litedetr::<name>_backward of a backend."""
    forward = _define(name, FORWARD_SCHEMA, *_forward(backend))
    backward = _define(f"{name}_backward", BACKWARD_SCHEMA, *_backward(backend))

    def save(ctx, arguments, results) -> None:
        *tensors, ctx.shapes, ctx.query_shapes, ctx.sampling, ctx.deterministic = arguments
        out, log_sum_exp = results
        ctx.mark_non_differentiable(log_sum_exp)
        save_for_backward(ctx, Saved(out, log_sum_exp) if backend.reads_results else None, tensors)

    def differentiate(ctx, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        out, log_sum_exp, *tensors = ctx.saved_tensors  # once: activation checkpointing recomputes on each access
        wanted = ctx.needs_input_grad[-NUM_INPUTS:]
        rest = ctx.shapes, ctx.query_shapes, ctx.sampling, ctx.deterministic
        grads = backward(grad_out, out, log_sum_exp, wanted[4], *tensors, *rest)
        kept = [grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=False)]
        return *kept, *[None] * (NUM_INPUTS - len(kept))

    register_derivatives(LIBRARY, forward, save, differentiate)
    register_derivatives(LIBRARY, backward, save_nothing, refuse_second)
    register_flop_formula(getattr(torch.ops.litedetr, name))(attention_flops)
    register_flop_formula(getattr(torch.ops.litedetr, f"{name}_backward"))(attention_backward_flops)

    def backward_operator(
        inputs: Inputs, saved: Saved | None, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> tuple[Tensor, ...]:
        results = (None, None) if saved is None else (saved.out, saved.log_sum_exp)
        return backward(grad_out, *results, reference_grad, *_flatten(inputs), deterministic)

    def forward_operator(inputs: Inputs, deterministic: bool) -> Tensor:
        out, _ = forward(*_flatten(inputs), deterministic)
        return out.flatten(2)

    return Attention(eager_attention(name, backend, backward_operator), forward_operator)


def _define(name: str, schema: str, kernel: Kernel, fake: Kernel) -> torch._ops.OpOverload:
    """An operator with the kernel of all devices and that of fake and meta tensors."""
    LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, torch._disable_dynamo(kernel), "CompositeExplicitAutograd")
    torch.library.register_fake(f"litedetr::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.litedetr, name).default


def _forward(backend: Backend) -> tuple[Kernel, Kernel]:
    """The forward pass and its fake."""

    def forward(*arguments):
        *flat, deterministic = arguments
        inputs = _unflatten(flat)
        with full_precision(inputs.value):
            saved = backend.forward(inputs, deterministic)
        return saved.out, saved.log_sum_exp

    def fake(*arguments):
        value, offsets = arguments[2], arguments[5]
        out = value.new_empty(*offsets.shape[:3], value.shape[3])
        shape = offsets.shape[:3] if backend.reads_results else (0,)
        return out, value.new_empty(shape, dtype=torch.promote_types(value.dtype, torch.float32))

    return forward, fake


def _backward(backend: Backend) -> tuple[Kernel, Kernel]:
    """The backward pass and its fake."""

    def backward(grad_out, out, log_sum_exp, reference_grad, *arguments):
        *flat, deterministic = arguments
        inputs = _unflatten(flat)
        saved = None if out is None else Saved(out, log_sum_exp)
        with full_precision(inputs.value):
            grads = backend.backward(inputs, saved, grad_out, deterministic, reference_grad)
        return tuple(inputs.value.new_empty(0) if grad is None else grad for grad in grads.tensors)

    def fake(grad_out, out, log_sum_exp, reference_grad, *arguments):
        *flat, _ = arguments
        inputs = _unflatten(flat)
        absent = [x is None or (x is inputs.points.reference and not reference_grad) for x in inputs.tensors]
        return tuple(
            inputs.value.new_empty(0) if is_absent else x.new_empty(x.shape)
            for x, is_absent in zip(inputs.tensors, absent, strict=True)
        )

    return backward, fake


def _flatten(inputs: Inputs) -> tuple[object, ...]:
    """In the order of the schema; pairs of sizes become flat lists."""
    points = inputs.points
    query_shapes = None if points.query_shapes is None else [*chain(*points.query_shapes)]
    return *inputs.tensors, points.valid_sizes, [*chain(*points.shapes)], query_shapes, points.sampling


def _unflatten(flat: Sequence[object]) -> Inputs:
    query, key, value, logits, reference, offsets, valid_sizes, shapes, query_shapes, sampling = flat
    query_shapes = None if query_shapes is None else _pairs(query_shapes)
    points = SamplingPoints(reference, offsets, _pairs(shapes), valid_sizes, query_shapes, sampling)
    return Inputs(query, key, value, logits, points)


def _pairs(sides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(sides[::2], sides[1::2], strict=True))


def attention_flops(
    query, key, value, logits, reference, offsets, valid_sizes, shapes, query_shapes, sampling, *_, **__
) -> int:
    """From shapes, two FLOPs a multiply-add, as torch.utils.flop_counter.FlopCounterMode counts them.

    The samples of values (and own keys), the scores q . k, the weighted sum of the samples.
    """
    tables = 1 if key is None else 2
    scores = 1 if logits is None else 0
    return 2 * math.prod(offsets[:-1]) * value[-1] * (SAMPLE_PRODUCTS[sampling] * tables + scores + 1)


def attention_backward_flops(grad_out, out, log_sum_exp, reference_grad, *inputs, **kwargs) -> int:
    """Twice the forward pass, as for a matrix product, and the forward pass recomputed."""
    return 3 * attention_flops(*inputs)
