"""A few calls of the fused kernels, for tools that watch a process: python -m <this module> <device> <size>.

size: `full`, queries of three levels at 800x1333, or `tiny`, deterministic gradients too. In bf16 on a GPU.
"""

from __future__ import annotations

import sys

import torch

from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.functional import attend
from litedetr.tools.gpu_report.steps.attention import BACKEND, SCORES, TINY

FULL_CALLS = 3  # the first ones compile


def main(device: str, size: str) -> None:
    is_tiny = size == "tiny"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for score in SCORES:
        inputs = Workload(score, dtype, (1, 4), **(TINY if is_tiny else {})).inputs(device)
        leaves = [x for x in inputs.tensors if x is not None and x.requires_grad]
        for deterministic in (False, True) if is_tiny else (False,) * FULL_CALLS:
            attended = attend(inputs, BACKEND, deterministic)
            torch.autograd.grad(attended, leaves, torch.ones_like(attended))


if __name__ == "__main__":
    main(*sys.argv[1:])
