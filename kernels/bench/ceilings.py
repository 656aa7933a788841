"""What a machine's memory and arithmetic reach, and the least time that an attention takes on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.kernels.inputs import Inputs

COPY_BYTES = 1 << 28
PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}  # of square matrices
PRODUCTS = {"bf16": (torch.bfloat16, "highest"), "tf32": (torch.float32, "high"), "fp32": (torch.float32, "highest")}
L1_BYTES_PER_CLOCK = 128  # of one multiprocessor


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches in calls that do nothing else."""

    bandwidth: float  # bytes a second of a large copy, reads and writes counted
    l1: float | None  # bytes a second of all first-level caches, if known
    products: dict[str, float] = field(default_factory=dict)  # FLOP/s of a large matrix product by precision

    @classmethod
    def of(cls, device: torch.device) -> Ceilings:
        """Measured by a copy and by products; the rate of the caches is computed from clock and multiprocessors."""
        source = torch.randn(COPY_BYTES // 4, device=device)
        target = torch.empty_like(source)
        rounds = 5 if device.type == "cpu" else 100
        copied = side_by_side({"copy": lambda: target.copy_(source)}, device, rounds)
        bandwidth = 2 * COPY_BYTES / (copied["copy"].milliseconds * 1e-3)
        products = _products(device, rounds)
        if device.type == "cpu":
            return cls(bandwidth, None, products)
        properties = torch.cuda.get_device_properties(device)
        kilohertz = getattr(properties, "clock_rate", None)
        multiprocessors = properties.multi_processor_count
        l1 = kilohertz and kilohertz * 1e3 * multiprocessors * L1_BYTES_PER_CLOCK
        return cls(bandwidth, l1, products)

    def __str__(self) -> str:
        products = (f"{name} products {rate / 1e12:.3g} TFLOP/s" for name, rate in self.products.items())
        return ", ".join([f"copy bandwidth {self.bandwidth / 1e9:.0f} GB/s", *products])


def _products(device: torch.device, rounds: int) -> dict[str, float]:
    """FLOP/s by precision; a CPU's in fp32 only, since it may lack the others."""
    side = PRODUCT_SIDE[device.type]
    names = ("fp32",) if device.type == "cpu" else tuple(PRODUCTS)
    found, before = {}, torch.get_float32_matmul_precision()
    for name in names:
        dtype, precision = PRODUCTS[name]
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        torch.set_float32_matmul_precision(precision)
        try:
            timing = side_by_side({"product": lambda a=left, b=right, c=out: torch.mm(a, b, out=c)}, device, rounds)
        finally:
            torch.set_float32_matmul_precision(before)
        found[name] = 2 * side**3 / (timing["product"].milliseconds * 1e-3)
    return found


def floor_milliseconds(inputs: Inputs, training: bool, ceilings: Ceilings) -> float:
    """The least time that moving the bytes takes; arithmetic and atomics come on top.

    From memory every tensor is read or written once, and once more each way for its gradient, tables in fp32; through
    the first-level caches go the pixels of each sample and table, in the backward pass a second time.
    """
    tables = [x for x in (inputs.key, inputs.value) if x is not None]
    others = [x for x in inputs.tensors if x is not None and all(x is not table for table in tables)]
    out = inputs.points.offsets[..., 0, 0, 0].numel() * inputs.value.shape[-1] * inputs.value.element_size()
    moved = sum(x.nbytes for x in (*tables, *others)) + out
    pixels = inputs.points.offsets.numel() // 2 * (4 if inputs.points.sampling == "bilinear" else 1)
    gathered = pixels * sum(table.shape[-1] * table.element_size() for table in tables)
    if training:
        moved = 2 * moved + moved + sum(2 * 4 * table.numel() for table in tables)
        gathered *= 2
    through_l1 = gathered / ceilings.l1 if ceilings.l1 else 0.0
    return max(moved / ceilings.bandwidth, through_l1) * 1e3
