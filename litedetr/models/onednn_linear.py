"""Linear layers that a CPU computes by the faster of two libraries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WORK = 1 << 20  # multiply-adds; below, starting a convolution costs more than it saves


class OneDnnLinear(nn.Linear):
    """nn.Linear that is computed as a convolution of one pixel, on a CPU in fp32.

    PyTorch computes convolutions by oneDNN, which uses the widest vectors of any x86 processor, and F.linear by MKL,
    which does so only on some. On the others this halves the time of forward and backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """W x + b.

        x: (..., C_in). Only (B, N, C_in) on a CPU in fp32 is convolved, and only if that is LEAST_WORK or more.
        Returns (..., C_out).
        """
        if not self._suits_a_convolution(x):
            return super().forward(x)
        pixels = x.contiguous().transpose(1, 2).unsqueeze(-2)  # (B, C, 1, N), channels last in memory
        return F.conv2d(pixels, self.weight[:, :, None, None], self.bias).squeeze(-2).transpose(1, 2)

    def _suits_a_convolution(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling():  # compilers and exporters choose for themselves, for any size
            return False
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        return on_cpu and x.ndim == 3 and x.numel() * self.out_features >= LEAST_WORK


def use_onednn_linears(model: nn.Module) -> None:
    """Make every nn.Linear in `model` a OneDnnLinear, in place; subclasses of nn.Linear stay as they are.

    Only the class changes: modules, parameters, names and hooks stay the same objects. On another device or in another
    dtype the layers compute what nn.Linear does, so that a model may be moved afterwards.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
