"""Where every query samples: the one argument that both attention operations share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.masked import MaskedTensor
from torch.nn.parameter import UninitializedTensorMixin

from litedetr.kernels.constants import constant
from litedetr.kernels.plain import are_plain, is_watched

Sampling = Literal["bilinear", "nearest"]
SAMPLINGS = get_args(Sampling)  # here, since torch 2.6 does not compile a function that asks for it
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NOT_DENSE = (MaskedTensor, UninitializedTensorMixin)
MOST_SIDE = 2**24  # pixels of a level's side; single precision counts no further


@dataclass(frozen=True)
class SamplingPoints:
    """Sampling locations as reference plus offset, kept apart so that neither is ever rounded as a sum.

    Any location is accepted. An infinite one lies outside. A NaN location (including inf * 0, in an infinite box)
    makes that head's output NaN, and the gradients of its query, logits and points; it reads no token and sends no
    gradient. A sample outside of its level or of the level's valid part reads zero. Padding of another form than
    DETR's rectangle has the same effect if value and key are zero there (masked_fill).

    sampling `nearest` reads the one pixel that the location lies in, floor(position + 0.5) of its position in pixels:
    on the edge of two pixels the right or lower one. A step function has no slope, so the gradients of reference and
    offsets are zero, also at a NaN location. RT-DETRv2 (arXiv 2407.17140) calls it discrete sampling; its code adds
    0.5 to relative location * size and cuts off the fraction, which is half a pixel further right and down, and moves
    locations outside to the nearest border pixel.
    """

    reference: Tensor  # (B, Q, L, 2) points (x, y) or (B, Q, L, 4) boxes (cx, cy, w, h), relative to (W_l, H_l)
    # (B, Q, M, L, P, 2), (x, y). With points: in pixels of the level. With boxes: an offset of P is half of the box: a
    # location is centre + offset / P * size / 2 (Deformable DETR, appendix A.4)
    offsets: Tensor
    shapes: tuple[tuple[int, int], ...]  # (H_l, W_l), Python ints, symbols while exporting; S: sum of their products
    valid_sizes: Tensor | None = None  # (B, L, 2) integers, (height, width) that is not padding, clamped to the level
    query_shapes: tuple[tuple[int, int], ...] | None = None  # (H, W) if queries are cells in raster order: only a hint
    sampling: Sampling = "bilinear"  # how a location between pixels is read

    @property
    def num_tokens(self) -> int:
        """S, the number of tokens of all levels."""
        return sum(h * w for h, w in self.shapes)

    def level_sizes(self, like: Tensor) -> Tensor:
        """(L, 2), the (width, height) of every level, in the dtype and on the device of `like`."""
        return as_tensor([side for h, w in self.shapes for side in (w, h)], like).view(-1, 2)

    def valid_limits(self, like: Tensor) -> Tensor:
        """(1 or B, L, 2), the (width, height) of every level's valid part, at most all of it; like `level_sizes`."""
        size = self.level_sizes(like).unsqueeze(0)
        if self.valid_sizes is None:
            return size
        return torch.minimum(self.valid_sizes.flip(-1).to(like.dtype), size)

    def pixel_locations(self) -> Tensor:
        """(B, Q, M, L, P, 2) positions in pixels, where the centre of a level's first pixel is (0, 0).

        In single precision at least: a half would round the sizes of levels as well. With nearest sampling those of the
        pixels that are read, whole numbers.
        """
        dtype = torch.promote_types(self.offsets.dtype, torch.float32)
        offsets, reference = self.offsets.to(dtype), self.reference[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 | 4)
        size = self.level_sizes(offsets).unsqueeze(1)
        if reference.shape[-1] == 2:
            from_edge = reference * size + offsets
        else:
            from_edge = (reference[..., :2] + offsets / offsets.shape[-2] * reference[..., 2:] * 0.5) * size
        # floor(position + 0.5) without two roundings; the derivative of floor is zero
        return from_edge.floor() if self.sampling == "nearest" else from_edge - 0.5

    def check(self, value: Tensor) -> None:
        """Raise ValueError, or TypeError for what is no tensor, unless all fits `value` (B, S, M, D) and each other.

        By shapes, dtypes and devices alone: no look at a number, which on a GPU would have to be waited for.
        """
        if not isinstance(self.sampling, str) or self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling: expected one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")
        _check_sides("shapes", self.shapes)
        check_dtype("offsets", self.offsets, DTYPES)
        check_dtype("reference", self.reference, DTYPES)
        if value.ndim != 4 or value.shape[1] != self.num_tokens or 0 in value.shape[2:]:
            expected = f"(B, S, M, D) with S = {self.num_tokens} tokens for shapes {self.shapes} and M, D >= 1"
            raise ValueError(f"value: expected shape {expected}, got {tuple(value.shape)}")
        if self.offsets.ndim != 6 or 0 in self.offsets.shape[3:]:
            raise ValueError(
                f"offsets: expected shape (B, Q, M, L, P, 2) with L, P >= 1, got {tuple(self.offsets.shape)}"
            )
        batch, _, heads, _ = value.shape
        _, queries, _, _, num_points, _ = self.offsets.shape
        levels = len(self.shapes)
        last = 4 if self.reference.shape[-1:] == (4,) else 2
        check_tensor("offsets", self.offsets, (batch, queries, heads, levels, num_points, 2), value)
        check_tensor("reference", self.reference, (batch, queries, levels, last), value)
        if self.query_shapes is not None:
            _check_sides("query_shapes", self.query_shapes)
            if sum(h * w for h, w in self.query_shapes) != queries:
                raise ValueError(f"query_shapes: expected {queries} cells, one for each query, got {self.query_shapes}")
        if self.valid_sizes is not None:
            check_dtype("valid_sizes", self.valid_sizes, (torch.int32, torch.int64))
            check_tensor("valid_sizes", self.valid_sizes, (batch, levels, 2), value)


def check_dtype(name: str, tensor: Tensor, expected: tuple[torch.dtype, ...]) -> None:
    """Raise TypeError unless it is a tensor, ValueError unless it is dense and has one of the dtypes."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if kind := _kind_not_dense(tensor):
        raise ValueError(f"{name}: expected a dense tensor (layout torch.strided), got {kind}")
    if tensor.dtype not in expected:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in expected)
        raise ValueError(f"{name}: expected {names}, got {tensor.dtype}")


def _kind_not_dense(tensor: Tensor) -> str | None:
    """What it is if it has no strided memory that holds all elements."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"layout {tensor.layout}"
    return type(tensor).__name__ if isinstance(tensor, NOT_DENSE) else None


def check_tensor(name: str, tensor: Tensor, expected: tuple[int, ...], value: Tensor) -> None:
    """Raise ValueError unless `tensor` has the expected shape and lies where `value` does."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(tensor.shape)}")
    if tensor.device != value.device:
        raise ValueError(f"{name}: expected on {value.device} like value, got {tensor.device}")


def _check_sides(name: str, shapes: object) -> None:
    """Raise ValueError unless `shapes` are pairs of ints or symbols."""
    if not isinstance(shapes, (tuple, list)) or not all(_is_pair(pair) for pair in shapes):
        raise ValueError(f"{name}: expected pairs (H, W) of ints from 0 to {MOST_SIDE}, got {shapes}")


def _is_pair(pair: object) -> bool:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    height, width = pair
    if not (isinstance(height, (int, torch.SymInt)) and isinstance(width, (int, torch.SymInt))):
        return False
    # a compiled program would take the upper bound for one of its own
    return height >= 0 and width >= 0 and (torch.compiler.is_compiling() or max(height, width) <= MOST_SIDE)


def as_tensor(numbers: Sequence[int], like: Tensor) -> Tensor:
    """(N,) in the dtype and on the device of `like`; symbols stay symbols, which `new_tensor` would freeze.

    In plain eager mode the numbers are copied to a device once, so that later calls do not wait for it.
    """
    if any(isinstance(number, torch.SymInt) for number in numbers):
        return torch.stack([like.new_full((), number) for number in numbers])
    if is_watched() or not are_plain(like):
        return torch.tensor(numbers, dtype=like.dtype, device=like.device)  # new_tensor takes no negated view
    return constant(tuple(numbers), like.dtype, like.device).clone()  # which the caller may change


def level_starts(shapes: tuple[tuple[int, int], ...]) -> list[int]:
    """Index of every level's first token."""
    sizes = [math.prod(shape) for shape in shapes]
    return [sum(sizes[:level]) for level in range(len(sizes))]
