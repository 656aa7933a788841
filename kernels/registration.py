"""A backend's forward and backward pass as operators of torch.library.

So torch.compile, torch.export, FLOP counters and activation checkpointing take an attention as one step. The backward
pass is an operator of its own, and refuses to be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from kernels.flops import register_formulas
from kernels.inputs import Gradients, Inputs, Saved, full_precision
from kernels.points import SamplingPoints

INPUTS = (
    "Tensor? query, Tensor? key, Tensor value, Tensor? logits, Tensor reference, Tensor offsets, "
    "Tensor? valid_sizes, SymInt[] shapes, SymInt[]? query_shapes, bool deterministic"
)
FORWARD_SCHEMA = f"({INPUTS}) -> (Tensor out, Tensor log_sum_exp)"
BACKWARD_SCHEMA = (
    f"(Tensor grad_out, Tensor out, Tensor log_sum_exp, bool reference_grad, {INPUTS}) "
    "-> (Tensor query, Tensor key, Tensor value, Tensor logits, Tensor reference, Tensor offsets)"
)
NUM_INPUTS = 10

Attend = Callable[[Inputs, bool], Tensor]


class Backend(Protocol):
    """What computes an attention. `deterministic` asks for the same bits on every run.

    saves_log_sum_exp: False where the backward pass does without, and `Saved.log_sum_exp` is empty.
    """

    saves_log_sum_exp: bool

    def forward(self, inputs: Inputs, deterministic: bool) -> Saved:
        """Output and what else the backward pass needs."""

    def backward(
        self, inputs: Inputs, saved: Saved, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> Gradients:
        """reference_grad: whether the gradient of the reference is wanted; it may be None otherwise."""


def register(name: str, backend: Backend) -> Attend:
    """Define litedetr::<name> and litedetr::<name>_backward; returns (inputs, deterministic) -> (B, Q, M * D)."""
    forward = _define_forward(f"litedetr::{name}", backend)
    backward = _define_backward(f"litedetr::{name}_backward", backend)

    def save(ctx, inputs, output) -> None:
        *tensors, ctx.shapes, ctx.query_shapes, ctx.deterministic = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, *tensors)

    def differentiate(ctx, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        out, log_sum_exp, *tensors = ctx.saved_tensors  # once: activation checkpointing recomputes on each access
        wanted = ctx.needs_input_grad
        sizes = ctx.shapes, ctx.query_shapes
        grads = backward(grad_out, out, log_sum_exp, wanted[4], *tensors, *sizes, ctx.deterministic)
        kept = [grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=False)]
        return *kept, *[None] * (NUM_INPUTS - len(kept))

    forward.register_autograd(differentiate, setup_context=save)
    backward.register_autograd(_refuse)
    register_formulas(getattr(torch.ops.litedetr, name), getattr(torch.ops.litedetr, f"{name}_backward"))

    def attend(inputs: Inputs, deterministic: bool) -> Tensor:
        out, _ = forward(*_flatten(inputs), deterministic)
        return out.flatten(2)

    return attend


def _define_forward(name: str, backend: Backend) -> torch.library.CustomOpDef:
    def forward(*arguments):
        *flat, deterministic = arguments
        inputs = _unflatten(flat)
        with full_precision(inputs.value):
            saved = backend.forward(inputs, deterministic)
        return saved.out, saved.log_sum_exp

    def fake(*arguments):
        value, offsets = arguments[2], arguments[5]
        out = value.new_empty(*offsets.shape[:3], value.shape[3])
        shape = offsets.shape[:3] if backend.saves_log_sum_exp else (0,)
        return out, value.new_empty(shape, dtype=torch.promote_types(value.dtype, torch.float32))

    op = torch.library.custom_op(name, forward, mutates_args=(), schema=FORWARD_SCHEMA)
    op.register_fake(fake)
    return op


def _define_backward(name: str, backend: Backend) -> torch.library.CustomOpDef:
    def backward(grad_out, out, log_sum_exp, reference_grad, *arguments):
        *flat, deterministic = arguments
        inputs = _unflatten(flat)
        saved = Saved(out, log_sum_exp)
        with full_precision(inputs.value):
            grads = backend.backward(inputs, saved, grad_out.contiguous(), deterministic, reference_grad)
        return tuple(inputs.value.new_empty(0) if grad is None else grad for grad in grads.tensors)

    def fake(grad_out, out, log_sum_exp, reference_grad, *arguments):
        *flat, _ = arguments
        inputs = _unflatten(flat)
        absent = [x is None or (x is inputs.points.reference and not reference_grad) for x in inputs.tensors]
        return tuple(
            inputs.value.new_empty(0) if is_absent else x.new_empty(x.shape)
            for x, is_absent in zip(inputs.tensors, absent, strict=True)
        )

    op = torch.library.custom_op(name, backward, mutates_args=(), schema=BACKWARD_SCHEMA)
    op.register_fake(fake)
    return op


def _refuse(ctx, *grads: Tensor) -> None:
    raise RuntimeError("this backend differentiates once; use backend='reference' for second derivatives")


def _flatten(inputs: Inputs) -> tuple[object, ...]:
    """In the order of the schema; pairs of sizes become flat lists."""
    points = inputs.points
    query_shapes = None if points.query_shapes is None else [*chain(*points.query_shapes)]
    return *inputs.tensors, points.valid_sizes, [*chain(*points.shapes)], query_shapes


def _unflatten(flat: Sequence[object]) -> Inputs:
    query, key, value, logits, reference, offsets, valid_sizes, shapes, query_shapes = flat
    query_shapes = None if query_shapes is None else _pairs(query_shapes)
    points = SamplingPoints(reference, offsets, _pairs(shapes), valid_sizes, query_shapes)
    return Inputs(query, key, value, logits, points)


def _pairs(sides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(sides[::2], sides[1::2], strict=True))
