"""The derivatives of an operator: one backward pass. Every other derivative raises.

`torch.library.register_autograd` drops the tangents of forward mode without a word and does not know torch.func. So
each operator has a kernel of its own for the dispatch key Autograd, which all of these reach: autograd, forward mode,
and torch.func, which calls it once for each of its nested transforms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import Function
from torch.autograd.forward_ad import _set_fwd_grad_enabled

NO_SECOND = "this backend differentiates once; use backend='reference' for second derivatives"
NO_FORWARD_MODE = (
    "this backend has no forward-mode derivatives (jvp, jacfwd, linearize, hessian); use backend='reference' for them"
)

Save = Callable[..., None]  # (ctx, arguments, results)
Differentiate = Callable[..., tuple[Tensor | None, ...]]  # (ctx, *gradients of the results) -> one for each argument


def register_derivatives(
    library: torch.library.Library, operator: torch._ops.OpOverload, save: Save, differentiate: Differentiate
) -> None:
    """Give an operator its backward pass. `save` keeps on ctx what `differentiate` reads."""
    node = _autograd_function(operator, save, differentiate)

    def autograd_kernel(keyset, *arguments):
        # not Function.apply, which would start torch.func's transforms anew: they have called this kernel
        with enable_single_level_autograd_function():
            return super(Function, node).apply(keyset, torch.is_grad_enabled(), *arguments)

    library.impl(operator, autograd_kernel, "Autograd", with_keyset=True)


def _autograd_function(operator: torch._ops.OpOverload, save: Save, differentiate: Differentiate) -> type[Function]:
    class Differentiated(Function):
        @staticmethod
        def forward(keyset, is_recorded, *arguments):
            if not torch._C._are_functorch_transforms_active():
                return _below_autograd(operator, keyset, arguments)
            # the transforms around this one record what it calls; autograd functions switch that off
            with torch.enable_grad(), _set_fwd_grad_enabled(True):
                return _below_autograd(operator, keyset, arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, is_recorded, *arguments = inputs
            if is_recorded and any(ctx.needs_input_grad):
                save(ctx, arguments, output)

        @staticmethod
        def backward(ctx, *grads):
            return None, None, *differentiate(ctx, *grads)

        @staticmethod
        def jvp(ctx, *tangents):
            raise RuntimeError(NO_FORWARD_MODE)

    name = operator._schema.name.partition("::")[2]
    return type(name, (Differentiated,), {})  # grad_fn and errors show the name


def _below_autograd(operator: torch._ops.OpOverload, keyset, arguments):
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def save_nothing(ctx, arguments, results) -> None:
    """For an operator that is not differentiated."""


def refuse_second(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Raises RuntimeError: the derivative of a backward pass."""
    raise RuntimeError(NO_SECOND)
