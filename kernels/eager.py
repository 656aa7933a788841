"""An attention of plain calls: one node of autograd's graph around a backend, without operators of torch.library.

It differs from the operators only in host time: it saves, computes and rejects the same, and its node has the name of
the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from litedetr.kernels.backends import Attend, Backend
from litedetr.kernels.inputs import Inputs, Saved, full_precision
from litedetr.kernels.plain import are_plain, is_watched
from litedetr.kernels.points import SamplingPoints

# (inputs, saved, grad_out, deterministic, reference_grad) -> a gradient for each of `Inputs.tensors`
BackwardOperator = Callable[[Inputs, Saved | None, Tensor, bool, bool], Sequence[Tensor]]


def save_for_backward(ctx, results: Saved | None, tensors: Sequence[Tensor | None]) -> None:
    """Keep results and tensors on ctx. The output is copied, since the caller owns it and may overwrite it."""
    read = (None, None) if results is None else (results.out.clone(), results.log_sum_exp)
    ctx.save_for_backward(*read, *tensors)


def eager_attention(name: str, backend: Backend, operator: BackwardOperator) -> Attend:
    """The attention of `backend` for plain calls. name: of its node.

    operator: the backward pass for gradients that are not plain, as within create_graph=True, vmap or a counter.
    """
    node = type(name, (_node(backend, operator),), {})  # grad_fn and errors show the name
    record = super(Function, node).apply  # without what Function.apply does for torch.func

    @torch._disable_dynamo
    def attend(inputs: Inputs, deterministic: bool) -> Tensor:
        tensors = inputs.tensors
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
            return record(inputs, deterministic, *tensors)
        # views below autograd are none to it: the result may be overwritten in place
        with torch._C._AutoDispatchBelowADInplaceOrView(), full_precision(inputs.value):
            return backend.forward(inputs, deterministic).out.flatten(2)

    return attend


def _node(backend: Backend, operator: BackwardOperator) -> type[Function]:
    # After a graph break torch.compile compiles the rest of a function, and must take this call as one opaque step.
    @torch._disable_dynamo
    def differentiate(inputs: Inputs, *arguments: object) -> Sequence[Tensor | None]:
        with torch._C._AutoDispatchBelowADInplaceOrView(), full_precision(inputs.value):
            return backend.backward(inputs, *arguments).tensors

    class Node(Function):
        @staticmethod
        def forward(ctx, inputs: Inputs, deterministic: bool, *_: Tensor | None) -> Tensor:
            points = inputs.points
            with torch._C._AutoDispatchBelowADInplaceOrView(), full_precision(inputs.value):
                saved = backend.forward(inputs, deterministic)
                save_for_backward(ctx, saved if backend.reads_results else None, (*inputs.tensors, points.valid_sizes))
                ctx.shapes, ctx.query_shapes, ctx.sampling = points.shapes, points.query_shapes, points.sampling
                ctx.deterministic = deterministic
                return saved.out.flatten(2)

        @staticmethod
        def backward(ctx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
            out, log_sum_exp, *tensors = ctx.saved_tensors  # once: activation checkpointing recomputes on each access
            query, key, value, logits, reference, offsets, valid_sizes = tensors
            points = SamplingPoints(reference, offsets, ctx.shapes, valid_sizes, ctx.query_shapes, ctx.sampling)
            inputs = Inputs(query, key, value, logits, points)
            saved = None if out is None else Saved(out, log_sum_exp)
            wanted = ctx.needs_input_grad[-len(inputs.tensors) :]
            by_operator = torch.is_grad_enabled() or is_watched() or not are_plain(grad_out, out, *tensors)
            compute = operator if by_operator else differentiate
            grad_out = grad_out.view(*offsets.shape[:3], value.shape[3])
            grads = compute(inputs, saved, grad_out, ctx.deterministic, wanted[4])
            return None, None, *(grad if want else None for grad, want in zip(grads, wanted, strict=True))

    return Node
