"""The CPU path: both attentions in cache-sized chunks of queries, without a compiler and without big buffers.

A bilinear sample is a bag of four weighted rows, which `F.embedding_bag` fuses. Tables carry a border of zero pixels,
so that a sample outside needs no mask. The backward pass recomputes the samples; their derivatives by x and y are bags
with other weights, and the scatter into the table is, after a sort of the rows, one more bag: no atomics, the same
bits on every run.

Notation as in kernels/points.py; a chunk holds n queries, N = n * M query heads and K = L * P samples each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.points import SamplingPoints

MOST_ROWS = 2**31 - 1  # rows are counted in 32 bits, half the traffic of 64
SAMPLES_PER_CHUNK = 1 << 16  # about 8 MB of fp32 samples at D = 32


def deformable_attention(value: Tensor, logits: Tensor, points: SamplingPoints) -> Tensor:
    """As `kernels.reference.deformable_attention`."""
    return _attend(None, None, value, logits, points)


def key_aware_attention(query: Tensor, value: Tensor, points: SamplingPoints, key: Tensor | None = None) -> Tensor:
    """As `kernels.reference.key_aware_attention`."""
    return _attend(query, key, value, None, points)


@torch.compiler.disable  # loops over chunks would be unrolled into one huge graph
def _attend(
    query: Tensor | None, key: Tensor | None, value: Tensor, logits: Tensor | None, points: SamplingPoints
) -> Tensor:
    dtype = torch.promote_types(value.dtype, torch.float32)  # bags exist in full precision only
    grid = Grid.of(points, value.shape[2])
    tables = [None if x is None else _bordered(x.to(dtype), points) for x in (key, value)]
    queries = [None if x is None else x.to(dtype).flatten(0, 1) for x in (query, logits)]
    reference, offsets = points.reference.to(dtype).flatten(0, 1), points.offsets.to(dtype).flatten(0, 1)
    out = _Attention.apply(queries[0], tables[0], tables[1], queries[1], reference, offsets, grid)
    return out.view(value.shape[0], -1, value.shape[2] * value.shape[3]).to(value.dtype)


def _bordered(table: Tensor, points: SamplingPoints) -> Tensor:
    """(B, S, M, D) -> rows (B * S', M, D): each level behind a zero column and between two zero rows.

    A row's right border is the next row's left one; one more zero token ends the table. Padding is zeroed.
    """
    batch, _, heads, channels = table.shape
    levels = []
    for level, part in enumerate(table.split([h * w for h, w in points.shapes], dim=1)):
        height, width = points.shapes[level]
        image = part.reshape(batch, height, width, heads * channels)
        if points.valid_sizes is not None:
            image = image * _valid(points.valid_sizes[:, level], height, width).to(image.dtype)
        levels.append(F.pad(image, (0, 0, 1, 0, 1, 1)).flatten(1, 2))
    end = table.new_zeros(batch, 1, heads * channels)
    return torch.cat([*levels, end], dim=1).view(-1, channels)


def _valid(sizes: Tensor, height: int, width: int) -> Tensor:
    rows = torch.arange(height) < sizes[:, :1]
    columns = torch.arange(width) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(-1)


@dataclass(frozen=True)
class Grid:
    """Where the levels lie in the bordered table.

    Every constant is repeated for the P points: inner loops of L * P numbers vectorise, broadcasts over P do not.

    size: (L, P, 2) float (width, height) of the levels. limit: (B or 1, 1, L, P, 2) float, valid (width, height).
    start: (L, P) first token of each level; pitch: (L, P) tokens from one image row to the next.
    steps: (L, P, 4) table rows from a sample's first corner to each of the four. tokens: S'.
    last_first_row: (L, P), the largest row that a first corner may have.
    """

    size: Tensor
    limit: Tensor
    start: Tensor
    pitch: Tensor
    steps: Tensor
    last_first_row: Tensor
    tokens: int
    heads: int
    queries: int

    @classmethod
    def of(cls, points: SamplingPoints, heads: int) -> Grid:
        dtype = torch.promote_types(points.offsets.dtype, torch.float32)
        num_points = points.offsets.shape[-2]
        size = torch.tensor([(w, h) for h, w in points.shapes], dtype=dtype)
        limit = size.unsqueeze(0) if points.valid_sizes is None else points.valid_sizes.flip(-1).to(dtype)
        lengths = [(h + 2) * (w + 1) for h, w in points.shapes]
        start = torch.tensor([sum(lengths[:level]) for level in range(len(lengths))], dtype=torch.int32)
        pitch = torch.tensor([w + 1 for _, w in points.shapes], dtype=torch.int32)
        steps = torch.stack([pitch * 0, pitch * 0 + 1, pitch, pitch + 1], dim=-1) * heads
        tokens = sum(lengths) + 1
        rows = len(points.offsets) * tokens * heads
        if rows > MOST_ROWS:
            raise ValueError(f"value: expected at most {MOST_ROWS} rows B * S * M, got {rows}; take smaller batches")

        def for_points(x: Tensor, dim: int) -> Tensor:
            return x.unsqueeze(dim).repeat_interleave(num_points, dim)

        return cls(
            size=for_points(size, 1),
            limit=for_points(limit, 2).unsqueeze(1),
            start=for_points(start, 1),
            pitch=for_points(pitch, 1),
            steps=for_points(steps, 1),
            last_first_row=for_points(rows - 1 - steps.amax(-1), 1),
            tokens=tokens,
            heads=heads,
            queries=points.offsets.shape[1],
        )

    def images(self, rows: slice) -> Tensor:
        """Image index of each query of a chunk."""
        return torch.arange(rows.start, rows.stop, dtype=torch.int32) // max(self.queries, 1)


@dataclass(frozen=True)
class Corners:
    """The samples of a chunk: rows (N, K, 4) of the table and the fractions fx, fy (N, K) between them.

    inside: (N, K, 2), whether the location can move along x and along y without leaving the zero border.
    """

    rows: Tensor
    fx: Tensor
    fy: Tensor
    inside: Tensor

    @classmethod
    def of(cls, reference: Tensor, offsets: Tensor, grid: Grid, chunk: slice) -> Corners:
        """reference (n, L, 2 | 4), offsets (n, M, L, P, 2)."""
        location = _pixels(reference, offsets, grid.size)
        image = grid.images(chunk)
        limit = grid.limit[image] if len(grid.limit) > 1 else grid.limit
        held = torch.minimum(location.clamp(min=-1), limit)
        low = torch.minimum(held.floor(), limit - 1)
        fx, fy = (held - low).flatten(0, 1).flatten(1, 2).unbind(-1)
        inside = ((location >= -1) & (location < limit)).view(*fx.shape, 2)
        x, y = (low + 1).int().unbind(-1)  # (n, M, L, P)
        token = grid.start + y * grid.pitch + x + (image * grid.tokens).view(-1, 1, 1, 1)
        head = torch.arange(grid.heads, dtype=torch.int32).view(-1, 1, 1)
        first = token * grid.heads + head
        first = torch.minimum(first.clamp_(min=0), grid.last_first_row)  # NaN became any integer
        return cls((first.unsqueeze(-1) + grid.steps).view(*fx.shape, 4), fx, fy, inside)

    def weights(self) -> Tensor:
        """(N, K, 4) bilinear weights."""
        right, below = self.fx, self.fy
        both = right * below
        return torch.stack([1 - right - below + both, right - both, below - both, both], dim=-1)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """(N, K, 4) derivatives of the weights by x and by y."""
        left, above = 1 - self.fx, 1 - self.fy
        by_x = torch.stack([-above, above, -self.fy, self.fy], dim=-1)
        by_y = torch.stack([-left, -self.fx, left, self.fx], dim=-1)
        return by_x, by_y


def _pixels(reference: Tensor, offsets: Tensor, size: Tensor) -> Tensor:
    """(n, M, L, P, 2) positions in pixels; see SamplingPoints.pixel_locations."""
    reference = reference[:, None, :, None]
    if reference.shape[-1] == 2:
        return offsets + (reference * size - 0.5)
    step = reference[..., 2:] * size * (0.5 / offsets.shape[-2])
    return torch.addcmul(reference[..., :2] * size - 0.5, offsets, step)


def _bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """rows, weights (..., 4) -> (..., D)."""
    bags = F.embedding_bag(rows.view(-1, 4), table, per_sample_weights=weights.view(-1, 4), mode="sum")
    return bags.view(*rows.shape[:-1], table.shape[-1])


def _dot(vectors: Tensor, samples: Tensor) -> Tensor:
    """vectors (N, V, D), samples (N, K, D) -> (N, V, K). The other order of the product takes several times as long."""
    return vectors @ samples.transpose(1, 2)


class _Attention(torch.autograd.Function):
    """query (B * Q, M, D) with key table, or logits (B * Q, M, K); tables (rows, D). Returns (B * Q, M, D)."""

    @staticmethod
    def forward(ctx, query, key, value, logits, reference, offsets, grid):
        ctx.save_for_backward(query, key, value, logits, reference, offsets)
        ctx.grid = grid
        out = value.new_empty(*offsets.shape[:2], value.shape[-1])
        for chunk in _chunks(offsets):
            corners = Corners.of(reference[chunk], offsets[chunk], grid, chunk)
            weights = corners.weights()
            sampled = _bag(value, corners.rows, weights)
            if logits is None:
                keys = sampled if key is None else _bag(key, corners.rows, weights)
                score = _dot(_scaled(query[chunk]), keys)
            else:
                score = logits[chunk].flatten(0, 1).unsqueeze(1)
            out[chunk] = (score.softmax(-1) @ sampled).view_as(out[chunk])
        return out

    @staticmethod
    def backward(ctx, grad_out):
        if torch.is_grad_enabled():
            raise RuntimeError("this backend differentiates once; use backend='reference' for second derivatives")
        inputs = ctx.saved_tensors  # once: activation checkpointing recomputes them on each access
        grads = Gradients.zeros(*inputs)
        for chunk in _chunks(inputs[-1]):
            _backward_chunk(chunk, inputs, grad_out[chunk], grads, ctx.grid)
        return grads.query, grads.key, grads.value, grads.logits, grads.reference, grads.offsets, None


@dataclass(frozen=True)
class Gradients:
    """Buffers of the backward pass, one for each input; None where the input is."""

    query: Tensor | None
    key: Tensor | None
    value: Tensor
    logits: Tensor | None
    reference: Tensor
    offsets: Tensor

    @classmethod
    def zeros(cls, *inputs: Tensor | None) -> Gradients:
        return cls(*(None if x is None else torch.zeros_like(x) for x in inputs))


def _chunks(offsets: Tensor) -> list[slice]:
    """Slices of the queries that hold about SAMPLES_PER_CHUNK samples each."""
    per_query = max(1, offsets[:1].numel() // 2)
    step = max(1, SAMPLES_PER_CHUNK // per_query)
    return [slice(i, min(i + step, len(offsets))) for i in range(0, len(offsets), step)]


def _scaled(query: Tensor) -> Tensor:
    """query (n, M, D) -> q / sqrt(D) as (N, 1, D)."""
    return query.reshape(-1, 1, query.shape[-1]) * query.shape[-1] ** -0.5


def _backward_chunk(chunk: slice, inputs: tuple, grad_out: Tensor, grads: Gradients, grid: Grid) -> None:
    """Add the chunk's part to `grads`.

    With p the attention weights, dO the gradient of the output and ds that of the scores, a sample's value gets
    p * dO and its key ds * q / sqrt(D); both reach the table through the corners' weights, the location by the slopes.
    """
    query, key, value, logits, reference, offsets = inputs
    corners = Corners.of(reference[chunk], offsets[chunk], grid, chunk)
    samples = Samples.of(corners)
    d_out = grad_out.reshape(-1, 1, grad_out.shape[-1])  # (N, 1, D)
    q = None if query is None else _scaled(query[chunk])
    scatter = Scatter.of(corners)

    if logits is not None:
        value_dots, _ = samples.dot(value, d_out)
        p = logits[chunk].flatten(0, 1).softmax(-1)
    elif key is None:
        both, keys = samples.dot(value, torch.cat([d_out, q], dim=1))
        value_dots, key_dots = both[:, :1], both[:, 1:]
    else:
        value_dots, _ = samples.dot(value, d_out)
        key_dots, keys = samples.dot(key, q)
    if logits is None:
        p = key_dots[:, 0, 0].softmax(-1)

    d_weight = value_dots[:, 0, 0]  # (N, K)
    d_score = p * (d_weight - (p * d_weight).sum(-1, keepdim=True))
    d_location = p.unsqueeze(1) * value_dots[:, 0, 1:]  # (N, 2, K)
    sums = scatter.sums(d_out, p)
    if logits is not None:
        grads.logits[chunk] = d_score.view_as(grads.logits[chunk])
    else:
        d_location += d_score.unsqueeze(1) * key_dots[:, 0, 1:]
        d_query = d_score.unsqueeze(1) @ keys * q.shape[-1] ** -0.5
        grads.query[chunk] = d_query.view_as(grads.query[chunk])
        key_sums = scatter.sums(q, d_score)
        if key is None:
            sums += key_sums
        else:
            scatter.add(grads.key, key_sums)
    scatter.add(grads.value, sums)
    d_location = (d_location.transpose(1, 2) * corners.inside).view_as(offsets[chunk])
    _add_location(chunk, d_location, reference, offsets, grads, grid.size)


@dataclass(frozen=True)
class Samples:
    """What the backward pass reads: each sample and its derivatives by x and y, as bags (N, 3 K, 4)."""

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, corners: Corners) -> Samples:
        weights = torch.cat([corners.weights(), *corners.slopes()], dim=1)
        return cls(corners.rows.repeat(1, 3, 1), weights)

    def dot(self, table: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """vectors (N, V, D) -> (N, V, 3, K) dot products with sample, x and y derivative; and the samples (N, K, D)."""
        samples = _bag(table, self.rows, self.weights)
        num_samples = samples.shape[1] // 3
        return _dot(vectors, samples).unflatten(-1, (3, num_samples)), samples[:, :num_samples]


def _add_location(
    chunk: slice, d_location: Tensor, reference: Tensor, offsets: Tensor, grads: Gradients, size: Tensor
) -> None:
    """From the gradient of the pixel positions (n, M, L, P, 2) to those of offsets and reference."""
    if reference.shape[-1] == 2:
        grads.offsets[chunk] = d_location
        grads.reference[chunk] = (d_location * size).sum((1, 3))
        return
    half = size * (0.5 / offsets.shape[-2])
    grads.offsets[chunk] = d_location * reference[chunk][:, None, :, None, 2:] * half
    grads.reference[chunk, :, :2] = (d_location * size).sum((1, 3))
    grads.reference[chunk, :, 2:] = (d_location * offsets[chunk] * half).sum((1, 3))


@dataclass(frozen=True)
class Scatter:
    """Corners in ascending order of their table row.

    touched: the rows that occur; start: where each one's run begins; order: the corners; source: their query heads.
    weights: (N, K, 4), bilinear.
    """

    touched: Tensor
    start: Tensor
    order: Tensor
    source: Tensor
    weights: Tensor

    @classmethod
    def of(cls, corners: Corners) -> Scatter:
        ordered, order = corners.rows.view(-1).sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        start = first.nonzero().squeeze(1)
        per_head = corners.rows[:1].numel()
        source = order.div(per_head, rounding_mode="floor")
        return cls(ordered.index_select(0, start), start, order, source, corners.weights())

    def sums(self, vectors: Tensor, coefficients: Tensor) -> Tensor:
        """For each touched row the sum of weight * coefficient * vector; vectors (N, 1, D), coefficients (N, K)."""
        weights = (self.weights * coefficients.unsqueeze(-1)).view(-1).index_select(0, self.order)
        vectors = vectors.squeeze(1)
        return F.embedding_bag(self.source, vectors, self.start, per_sample_weights=weights, mode="sum")

    def add(self, table: Tensor, sums: Tensor) -> None:
        """Add `sums` to the touched rows of `table`."""
        table.index_add_(0, self.touched, sums)
