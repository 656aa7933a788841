"""All of a call that its launches depend on, so that what follows from it is worked out once."""

from __future__ import annotations

from typing import NamedTuple

import torch

from litedetr.kernels.inputs import Inputs, Score
from litedetr.kernels.points import Sampling

Shapes = tuple[tuple[int, int], ...]


class Sizes(NamedTuple):
    """Legend as in docs/kernels.md. A tuple, since it is made and looked up on every call."""

    score: Score  # where attention weights come from
    dtype: torch.dtype  # of the values
    device: torch.device  # of all tensors
    batch: int  # B
    queries: int  # Q
    heads: int  # M
    channels: int  # D
    levels: int  # L
    points: int  # P
    tokens: int  # S
    boxes: bool  # references are boxes, not points
    padded: bool  # valid sizes were given
    shapes: Shapes  # L pairs (H_l, W_l)
    query_shapes: Shapes | None  # pairs (H, W) if queries are the cells of grids
    sampling: Sampling  # how a location between pixels is read

    @classmethod
    def of(cls, inputs: Inputs) -> Sizes:
        points, value = inputs.points, inputs.value
        batch, queries, heads, levels, num_points, _ = points.offsets.shape
        _, tokens, _, channels = value.shape
        return cls(
            inputs.score,
            value.dtype,
            value.device,
            batch,
            queries,
            heads,
            channels,
            levels,
            num_points,
            tokens,
            points.reference.shape[-1] == 4,
            points.valid_sizes is not None,
            points.shapes,
            points.query_shapes,
            points.sampling,
        )

    @property
    def real(self) -> torch.dtype:
        """The precision that kernels compute in."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def cells(self) -> int:
        """Of all levels of an image: squares between four pixels, those that reach over the border included."""
        return sum((h + 1) * (w + 1) for h, w in self.shapes)


def power_of_two(number: int) -> int:
    """The least power of two that is not less than `number`, which is 1 or more.

    As triton.next_power_of_2, which takes 2 us in some versions.
    """
    return 1 << (number - 1).bit_length()
