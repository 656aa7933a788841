"""What a backend is, and the two ways to call one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from litedetr.kernels.inputs import Gradients, Inputs, Saved

Attend = Callable[[Inputs, bool], Tensor]  # (inputs, deterministic) -> (B, Q, M * D)


class Backend(Protocol):
    """What computes an attention. `deterministic` asks for the same bits every time.

    It is called without autocast (`full_precision`), since it chooses the precision of what it computes.
    """

    reads_results: bool  # whether the backward pass reads the forward pass's; if not, `Saved.log_sum_exp` is empty

    def forward(self, inputs: Inputs, deterministic: bool) -> Saved:
        """Output and what else the backward pass needs."""

    def backward(
        self, inputs: Inputs, saved: Saved | None, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> Gradients:
        """saved: None unless `reads_results`. grad_out: (B, Q, M, D) with any strides.

        reference_grad: whether the gradient of the reference is wanted; it may be None otherwise.
        """


@dataclass(frozen=True)
class Attention:
    """A backend as it is called. Both ways compute the same bits and save the same tensors."""

    eager: Attend  # for plain calls (kernels/plain.py): kernels/eager.py
    operator: Attend  # for all others: the operators of kernels/registration.py
