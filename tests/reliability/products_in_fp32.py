"""Runs a script with the products of half-precision matrices and convolutions summed in fp32 and rounded once.

So GPUs compute them. A CPU without fp16 instructions sums them one by one, thirty times slower.

python tests/reliability/products_in_fp32.py scripts/train.py trainer.precision=fp16 schedule.optimizer=adamw ...
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
}
HALF = (torch.float16, torch.bfloat16)


class ProductsInFp32(TorchDispatchMode):
    """Counts what it changed in `calls`: none would mean that it was never asked."""

    calls = 0

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        halves = {x.dtype for x in args if isinstance(x, torch.Tensor) and x.dtype in HALF}
        if func not in PRODUCTS or not halves:
            return func(*args, **(kwargs or {}))
        (dtype,) = halves
        ProductsInFp32.calls += 1
        wide = tree_map_only(torch.Tensor, torch.Tensor.float, args)
        return tree_map_only(torch.Tensor, lambda x: x.to(dtype), func(*wide, **(kwargs or {})))


if __name__ == "__main__":
    script, sys.argv = sys.argv[1], sys.argv[1:]
    sys.path.insert(0, str(Path(script).resolve().parent))
    with ProductsInFp32():
        runpy.run_path(script, run_name="__main__")
