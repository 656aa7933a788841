"""Whether results are right: against the reference in single precision or better, before anything is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from litedetr.kernels import reference
from litedetr.kernels.inputs import Gradients, Inputs

REFERENCE_QUERIES = 2048  # at a time: the reference writes every sample to memory
# Peers round normalised locations, in bf16 by up to a third of a pixel; beyond this they compute something else.
PEER_TOLERANCE = 0.5
# Relative RMS that rounding explains: of fp32 sums in another order, and of one rounding of a half-precision result.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def reference_results(inputs: Inputs, grad_out: Tensor) -> dict[str, Tensor]:
    """Output (B, Q, M, D) and gradients by name from the reference, in single precision at least.

    grad_out: (B, Q, M, D).
    """
    exact = inputs.map(lambda x: x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_())
    out = []
    for start in range(0, grad_out.shape[1], REFERENCE_QUERIES):
        part = slice(start, start + REFERENCE_QUERIES)
        out.append(reference.attend(exact.of_queries(part)))
        out[-1].backward(grad_out[:, part].flatten(2).to(out[-1].dtype))
        out[-1] = out[-1].detach()
    return {"out": torch.cat(out, dim=1).view(grad_out.shape)} | by_name(
        [None if x is None else x.grad for x in exact.tensors]
    )


def by_name(tensors: list[Tensor | None] | tuple[Tensor | None, ...]) -> dict[str, Tensor]:
    """Tensors in the order of `Inputs.tensors`, those that are there."""
    return {name: x for name, x in zip(Gradients.__annotations__, tensors, strict=True) if x is not None}


def worst_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative RMS error of the tensors of `actual`."""
    return max(relative_error(tensor, expected[name]) for name, tensor in actual.items())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of `expected`; infinite where something is not finite.

    Without a difference 0, also where all is zero, as the gradients of nearest samples' locations are.
    """
    difference = actual.detach().to(expected.dtype).view(expected.shape) - expected
    if not difference.any():
        return 0.0
    error = difference.square().mean().sqrt() / expected.square().mean().sqrt()
    return float(error) if error.isfinite() else float("inf")
