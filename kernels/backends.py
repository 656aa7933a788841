"""What computes an attention, and how it is called."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from litedetr.kernels.inputs import Gradients, Inputs, Saved, full_precision


class Backend(Protocol):
    """What computes an attention. `deterministic` asks for the same bits every time."""

    reads_results: bool  # whether the backward pass reads the forward pass's; if not, `Saved.log_sum_exp` is empty

    def forward(self, inputs: Inputs, deterministic: bool) -> Saved:
        """Output and what else the backward pass needs."""

    def backward(
        self, inputs: Inputs, saved: Saved | None, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> Gradients:
        """saved: None unless `reads_results`. grad_out: (B, Q, M, D), contiguous.

        reference_grad: whether the gradient of the reference is wanted; it may be None otherwise.
        """


def forward(backend: Backend, inputs: Inputs, deterministic: bool) -> Saved:
    """The forward pass, without autocast: a backend chooses the precision of what it computes."""
    with full_precision(inputs.value):
        return backend.forward(inputs, deterministic)


def backward(
    backend: Backend, inputs: Inputs, saved: Saved | None, grad_out: Tensor, deterministic: bool, reference_grad: bool
) -> Gradients:
    """The backward pass, without autocast; grad_out (B, Q, M, D) may lie in memory as it likes."""
    with full_precision(inputs.value):
        return backend.backward(inputs, saved, grad_out.contiguous(), deterministic, reference_grad)
