"""Random attention problems, small enough for loops."""

from dataclasses import dataclass

import torch

from kernels import SamplingPoints


@dataclass
class Problem:
    """Tensors of one attention call, all leaves with gradients, in the order of `names`."""

    tensors: dict
    shapes: tuple
    valid_sizes: torch.Tensor | None

    @property
    def points(self) -> SamplingPoints:
        return SamplingPoints(self.tensors["reference"], self.tensors["offsets"], self.shapes, self.valid_sizes)


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
    return Problem({name: x.requires_grad_() for name, x in tensors.items()}, shapes, valid)


CASES = {
    "points": {},
    "boxes": {"boxes": True},
    "padded": {"padded": True},
    "one level": {"shapes": ((4, 5),)},
    "five levels": {"shapes": ((5, 4), (3, 3), (2, 2), (1, 2), (1, 1))},
    "one point": {"points": 1},
    "24 channels": {"channels": 24},
    "an empty level": {"shapes": ((3, 4), (0, 0), (2, 2), (0, 3))},
    "no query": {"queries": 0},
}
