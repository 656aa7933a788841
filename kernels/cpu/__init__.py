"""The CPU path: attention in chunks of queries, without a compiler and without big buffers.

A bilinear sample is a bag of four weighted rows, which `F.embedding_bag` fuses, a nearest one a bag of one. Tables
carry a border of zero pixels, so that a sample outside needs no mask. Each head has a table of its own, and a chunk as
few of them as it can, so that what it reads and adds to stays in the cache.

The backward pass needs of a sample and its derivatives by x and y only dot products, and gets them from those of its
four rows. The scatter into the table sorts the samples and adds them up as bags: no atomics, the same bits every time.

Index arithmetic and scatter take large chunks, since waking threads costs as much as a small step; in the forward pass
the samples between a bag and its dot product are kept to what the cache holds.

Notation as in kernels/points.py; a chunk holds n queries, of several images or of a part of one, and h heads of each:
N = n * h query heads and K = L * P samples each.
"""

from __future__ import annotations

from torch import Tensor

from litedetr.kernels.cpu.backward import backward
from litedetr.kernels.cpu.forward import forward
from litedetr.kernels.inputs import Gradients, Inputs, Saved
from litedetr.kernels.registration import register


class CpuBackend:
    """See litedetr.kernels.backends.Backend; deterministic always."""

    reads_results = False

    def forward(self, inputs: Inputs, deterministic: bool) -> Saved:
        return forward(inputs)

    def backward(
        self, inputs: Inputs, saved: Saved | None, grad_out: Tensor, deterministic: bool, reference_grad: bool
    ) -> Gradients:
        return backward(inputs, grad_out, reference_grad)


attention = register("attention_cpu", CpuBackend())
