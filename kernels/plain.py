"""Whether a call is plain: in eager mode on dense tensors, with nothing around it that needs operators.

A plain call goes straight to its backend. Every other call takes the operators of kernels/registration.py, which are
what torch.compile, torch.export, torch.func, FLOP counters and other modes understand, and which cost more of the
host's time. Both ways compute the same bits and save the same tensors, so that a call which one of them recorded may
be recomputed or differentiated by the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

if TYPE_CHECKING:
    from litedetr.kernels.inputs import Inputs

TYPES = (Tensor, Parameter)  # not their subclasses, which may override what operators do


def _bits(*names: str) -> int:
    """Dispatch keys as a set of bits."""
    bits = 0
    for name in names:
        bits |= torch._C.DispatchKeySet(torch._C._dispatch_key_parse(name)).raw_repr()
    return bits


# Keys of dense tensors, and of a thread without modes. Nested, sparse, quantized, fake, meta and batched tensors,
# negated views and other devices have further keys; so has a thread within a mode, a transform or a trace.
ORDINARY = _bits(
    *("CPU", "AutogradCPU", "AutocastCPU"),
    *("CUDA", "AutogradCUDA", "AutocastCUDA"),
    *("ADInplaceOrView", "BackendSelect"),
)
OTHERS = ~ORDINARY


def is_plain(inputs: Inputs) -> bool:
    """Whether the call can do without the operators. False also if an argument has an unexpected type."""
    points = inputs.points
    return (
        not is_watched()
        and are_plain(*inputs.tensors, points.valid_sizes)
        and type(points.sampling) is str
        and _are_int_pairs(points.shapes)
        and (points.query_shapes is None or _are_int_pairs(points.query_shapes))
    )


def is_watched() -> bool:
    """Whether something traces, counts, transforms or redirects the operations of this thread.

    That is torch.compile and torch.export; modes for functions and for dispatch (FLOP counters, fake tensors, make_fx);
    torch.func; torch.jit.trace; forward-mode derivatives. Hooks for saved tensors and profilers work without operators.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_function_stack() > 0
        or torch._C._dispatch_tls_local_include_set().raw_repr() & OTHERS != 0
        or forward_ad._current_level >= 0
    )


def are_plain(*tensors: Tensor | None) -> bool:
    """Whether each is absent or an ordinary dense tensor on a CPU or GPU."""
    for x in tensors:
        if x is not None and (type(x) not in TYPES or torch._C._dispatch_keys(x).raw_repr() & OTHERS):
            return False
    return True


def _are_int_pairs(shapes: object) -> bool:
    """Whether `shapes` consists only of tuples and ints, so that results that depend on it can be cached by value."""
    if type(shapes) is not tuple:
        return False
    for pair in shapes:
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not int:
            return False
    return True
