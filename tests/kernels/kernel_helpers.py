"""Random attention problems, small enough for loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from litedetr.kernels.functional import deformable_attention, key_aware_attention
from litedetr.kernels.points import SamplingPoints

# Relative RMS of errors: fp32 rounds terms and sums; half-precision outputs and gradients are rounded once, at 2^-9 and
# 2^-12, and delta = dO . O is computed from a rounded output.
RMS = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


@dataclass
class Problem:
    """Tensors of one attention call, all leaves with gradients, in the order of `names`."""

    tensors: dict
    shapes: tuple
    valid_sizes: torch.Tensor | None
    query_shapes: tuple | None = None
    sampling: str = "bilinear"

    @property
    def points(self) -> SamplingPoints:
        where = self.tensors["reference"], self.tensors["offsets"]
        return SamplingPoints(*where, self.shapes, self.valid_sizes, self.query_shapes, self.sampling)

    def to(self, device) -> Problem:
        valid = self.valid_sizes if self.valid_sizes is None else self.valid_sizes.to(device)
        return self._with(lambda name, x: x.to(device), valid)

    def cast(self, dtype) -> Problem:
        """All but the reference, which keeps single precision at least."""
        exact = torch.promote_types(dtype, torch.float32)
        return self._with(lambda name, x: x.to(exact if name == "reference" else dtype), self.valid_sizes)

    def _with(self, change, valid) -> Problem:
        tensors = {n: change(n, x.detach()).requires_grad_(x.requires_grad) for n, x in self.tensors.items()}
        return Problem(tensors, self.shapes, valid, self.query_shapes, self.sampling)


def make_problem(
    shapes=((5, 4), (3, 2)),
    batch=2,
    queries=3,
    heads=2,
    channels=4,
    points=3,
    boxes=False,
    padded=False,
    dtype=torch.float64,
    query_shapes=None,
    sampling="bilinear",
) -> Problem:
    """Locations reach outside the levels; with `padded`, each image has its own valid part."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=dtype)

    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    reference = torch.rand(batch, queries, levels, 4 if boxes else 2, generator=generator, dtype=dtype) * 1.2 - 0.1
    tensors = {
        "query": normal(batch, queries, heads, channels),
        "key": normal(batch, tokens, heads, channels),
        "value": normal(batch, tokens, heads, channels),
        "logits": normal(batch, queries, heads, levels * points),
        "reference": reference,
        "offsets": normal(batch, queries, heads, levels, points, 2) * 2,
    }
    valid = None
    if padded:
        valid = torch.tensor([[[max(h - i, 1), max(w - 2 * i, 1)] for h, w in shapes] for i in range(batch)])
    return Problem({name: x.requires_grad_() for name, x in tensors.items()}, shapes, valid, query_shapes, sampling)


CASES = {
    "points": {},
    "boxes": {"boxes": True},
    "padded": {"padded": True},
    "one level": {"shapes": ((4, 5),)},
    "five levels": {"shapes": ((5, 4), (3, 3), (2, 2), (1, 2), (1, 1))},
    "one point": {"points": 1},
    "two points": {"points": 2},
    "five points": {"points": 5, "boxes": True},
    "five channels": {"channels": 5},
    "24 channels": {"channels": 24},
    "48 channels, one head": {"channels": 48, "heads": 1},
    "an empty level": {"shapes": ((3, 4), (0, 0), (2, 2), (0, 3))},
    "no query": {"queries": 0},
}
NEAREST = {
    "nearest": {"sampling": "nearest"},
    "nearest, boxes": {"sampling": "nearest", "boxes": True},
    "nearest, padded": {"sampling": "nearest", "padded": True},
    "nearest, an empty level": {"sampling": "nearest", "shapes": ((3, 4), (0, 0), (2, 2), (0, 3))},
}
NEAREST_OPERATORS = ["auto", "triton"]  # backends that are operators


def attend(kind, problem, backend, **options):
    """kind: a Score of kernels/inputs.py."""
    t = problem.tensors
    options["backend"] = backend
    if kind == "deformable":
        return deformable_attention(t["value"], t["logits"], problem.points, **options)
    return key_aware_attention(
        t["query"], t["value"], problem.points, t["key"] if kind == "key_aware" else None, **options
    )


def run(backend, kind, problem, **options):
    """Output and gradients by name."""
    for tensor in problem.tensors.values():
        tensor.grad = None
    out = attend(kind, problem, backend, **options)
    grad = torch.linspace(-1, 1, out.numel()).bfloat16()  # the same numbers in every precision
    out.backward(grad.to(out.device, out.dtype).view_as(out))
    grads = {name: tensor.grad for name, tensor in problem.tensors.items() if tensor.grad is not None}
    return {"output": out.detach()} | grads
