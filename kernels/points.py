"""Where every query samples: the one argument that both attention operations share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingPoints:
    """Sampling locations as reference plus offset, kept apart so that neither is ever rounded as a sum.

    reference: (B, Q, L, 2) points (x, y), or (B, Q, L, 4) boxes (cx, cy, w, h); relative to each level's (W_l, H_l).
    offsets: (B, Q, M, L, P, 2), (x, y). With points: in pixels of the level. With boxes: P = one half of the box,
        that is, a location is centre + offset / P * size / 2 (Deformable DETR, appendix A.4).
    shapes: ((H_0, W_0), ...), Python ints; S is the sum of their products.
    valid_sizes: (B, L, 2) integers, the (height, width) of each level that is not padding; None: all of it.
        A sample outside, be it of the level or of its valid part, reads zero.
    """

    reference: Tensor
    offsets: Tensor
    shapes: tuple[tuple[int, int], ...]
    valid_sizes: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """S, the number of tokens of all levels."""
        return sum(h * w for h, w in self.shapes)

    def pixel_locations(self) -> Tensor:
        """(B, Q, M, L, P, 2) positions in pixels, where the centre of a level's first pixel is (0, 0)."""
        reference = self.reference[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 | 4)
        size = self.offsets.new_tensor([(w, h) for h, w in self.shapes]).view(-1, 1, 2)
        if reference.shape[-1] == 2:
            return reference * size + self.offsets - 0.5
        num_points = self.offsets.shape[-2]
        location = reference[..., :2] + self.offsets / num_points * reference[..., 2:] * 0.5
        return location * size - 0.5

    def check(self, value: Tensor) -> None:
        """Raise ValueError where the shapes do not fit `value` (B, S, M, D) or each other."""
        if value.ndim != 4:
            raise ValueError(f"value: expected shape (B, S, M, D), got {tuple(value.shape)}")
        batch, tokens, heads, _ = value.shape
        if tokens != self.num_tokens:
            raise ValueError(f"value: expected S = {self.num_tokens} tokens for shapes {self.shapes}, got {tokens}")
        expected = (batch, self.offsets.shape[1], heads, len(self.shapes), self.offsets.shape[-2], 2)
        if tuple(self.offsets.shape) != expected:
            raise ValueError(
                f"offsets: expected shape (B, Q, M, L, P, 2) = {expected}, got {tuple(self.offsets.shape)}"
            )
        leading = (batch, self.offsets.shape[1], len(self.shapes))
        if tuple(self.reference.shape[:-1]) != leading or self.reference.shape[-1] not in (2, 4):
            raise ValueError(
                f"reference: expected shape (B, Q, L, 2 or 4) with (B, Q, L) = {leading}, got {tuple(self.reference.shape)}"
            )
        if self.valid_sizes is not None and tuple(self.valid_sizes.shape) != (batch, len(self.shapes), 2):
            raise ValueError(
                f"valid_sizes: expected shape (B, L, 2) = {(batch, len(self.shapes), 2)}, got {tuple(self.valid_sizes.shape)}"
            )
        for name, tensor in (
            ("reference", self.reference),
            ("offsets", self.offsets),
            ("valid_sizes", self.valid_sizes),
        ):
            if tensor is not None and tensor.device != value.device:
                raise ValueError(f"{name}: expected on {value.device} like value, got {tensor.device}")
        if self.valid_sizes is not None and self.valid_sizes.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"valid_sizes: expected int32 or int64, got {self.valid_sizes.dtype}")
        if any(not isinstance(side, int) or side < 0 for side in _flatten(self.shapes)):
            raise ValueError(f"shapes: expected pairs (H_l, W_l) of ints >= 0, got {self.shapes}")


def _flatten(shapes: tuple[tuple[int, int], ...]) -> list[int]:
    return [side for shape in shapes for side in shape]


def level_starts(shapes: tuple[tuple[int, int], ...]) -> list[int]:
    """Index of every level's first token."""
    sizes = [math.prod(shape) for shape in shapes]
    return [sum(sizes[:level]) for level in range(len(sizes))]
