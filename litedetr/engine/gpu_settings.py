"""What PyTorch may do on a GPU for speed that changes the last bits of results or costs time at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from litedetr.config import typed


@dataclass(frozen=True)
@typed
class GpuSettings:
    """The defaults are PyTorch's own; which of them pay was not yet measured on a GPU."""

    tf32: Literal["never", "convolutions", "always"] = "convolutions"  # fp32 products with 10 bits of mantissa
    cudnn_benchmark: bool = False  # time all algorithms of a convolution at each new size: for few sizes

    def apply(self) -> None:
        """Set PyTorch's switches of this process."""
        torch.backends.cudnn.allow_tf32 = self.tf32 != "never"
        torch.backends.cuda.matmul.allow_tf32 = self.tf32 == "always"
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
