"""A linear layer that takes the faster of two libraries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WORK = 1 << 20  # multiply-adds; below, starting a convolution costs more than it saves


class Linear(nn.Linear):
    """nn.Linear on x (..., C); on a CPU in fp32 it is computed as a convolution of one pixel.

    PyTorch computes convolutions by oneDNN, which uses the widest vectors of any x86 processor, and F.linear by MKL,
    which does so only on some. On the others this halves the time of forward and backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._suits_a_convolution(x):
            return super().forward(x)
        pixels = x.contiguous().transpose(1, 2).unsqueeze(-2)  # (B, C, 1, N), channels last in memory
        return F.conv2d(pixels, self.weight[:, :, None, None], self.bias).squeeze(-2).transpose(1, 2)

    def _suits_a_convolution(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling():  # compilers and exporters choose for themselves, for any size
            return False
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        return on_cpu and x.ndim == 3 and x.numel() * self.out_features >= LEAST_WORK
