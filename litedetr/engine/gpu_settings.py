"""What PyTorch may do on a GPU for speed that changes the last bits of results or costs time at first."""

from __future__ import annotations

from typing import Literal

import torch

from litedetr.settings import Flag, settings


@settings("gpu")
class GpuSettings:
    """The defaults leave PyTorch as it is; what pays was not yet measured on a GPU."""

    # Which fp32 products keep 10 bits of the mantissa; default: convolutions, unless PyTorch was told otherwise.
    tf32: Literal["default", "never", "convolutions", "always"] = "default"
    cudnn_benchmark: Flag = False  # time all algorithms of a convolution at each new size: for few sizes

    def apply(self) -> None:
        """Set PyTorch's switches of this process."""
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        if self.tf32 != "default":
            torch.backends.cudnn.allow_tf32 = self.tf32 != "never"
            torch.backends.cuda.matmul.allow_tf32 = self.tf32 == "always"
