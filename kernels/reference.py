"""Both attentions in plain PyTorch: the oracle of every other backend.

By gathers (`F.embedding`), not grid_sample, so that double backward works and exports carry no GridSample.
Shapes: B images, S tokens, Q queries, M heads, D channels a head, L levels, P points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from litedetr.kernels.inputs import Inputs, full_precision
from litedetr.kernels.points import SamplingPoints, as_tensor, level_starts

OUTSIDE = -2.0  # a pixel before a level: neither it nor the next is one of the level


def attend(inputs: Inputs) -> Tensor:
    """Either attention: (B, Q, M * D), computed in single precision at least: a half cannot hold every score."""
    exact = _exact(inputs)
    with full_precision(inputs.value):
        if exact.logits is not None:
            out = deformable_attention(exact.value, exact.logits, exact.points)
        else:
            out = key_aware_attention(exact.query, exact.value, exact.points, exact.key)
    return out.to(inputs.value.dtype)


def attention_weights(inputs: Inputs) -> Tensor:
    """(B, Q, M, L * P) what either attention weights its samples by; they sum to 1 for each query and head."""
    exact = _exact(inputs)
    if exact.logits is not None:
        return exact.logits.softmax(-1)
    with full_precision(inputs.value):
        return _key_aware_weights(exact.query, sample(exact.value if exact.key is None else exact.key, exact.points))


def _exact(inputs: Inputs) -> Inputs:
    return inputs.map(lambda x: x.to(torch.promote_types(x.dtype, torch.float32)))


def deformable_attention(value: Tensor, logits: Tensor, points: SamplingPoints) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, Eq. 3): out = sum softmax(logits) * sampled value.

    value (B, S, M, D), logits (B, Q, M, L * P) -> (B, Q, M * D).
    """
    sampled = sample(value, points)
    return _weighted_sum(logits.softmax(-1).to(value.dtype), sampled)


def key_aware_attention(query: Tensor, value: Tensor, points: SamplingPoints, key: Tensor | None = None) -> Tensor:
    """Key-aware deformable attention (Lite DETR, Eq. 4): out = sum softmax(q . k / sqrt(D)) * v over sampled k, v.

    query (B, Q, M, D), value and key (B, S, M, D) -> (B, Q, M * D). Without `key` the values serve as keys.
    A sample outside its level reads zero and so has logit 0: it keeps its share of the softmax.
    """
    sampled_value = sample(value, points)
    sampled_key = sampled_value if key is None else sample(key, points)
    return _weighted_sum(_key_aware_weights(query, sampled_key), sampled_value)


def _key_aware_weights(query: Tensor, sampled_key: Tensor) -> Tensor:
    """query (B, Q, M, D), sampled_key (B, Q, M, L * P, D) -> (B, Q, M, L * P)."""
    logits = (sampled_key @ query.unsqueeze(-1)).squeeze(-1) * query.shape[-1] ** -0.5
    return logits.softmax(-1)


def _weighted_sum(weights: Tensor, sampled: Tensor) -> Tensor:
    """weights (B, Q, M, L * P), sampled (B, Q, M, L * P, D) -> (B, Q, M * D)."""
    return (weights.unsqueeze(-2) @ sampled).squeeze(-2).flatten(2)


def sample(table: Tensor, points: SamplingPoints) -> Tensor:
    """Samples (B, Q, M, L * P, D) of `table` (B, S, M, D), zero outside, pixel centres at + 0.5."""
    rows, weights = weighted_pixels(points)
    flat = F.pad(table.reshape(-1, table.shape[-1]), (0, 0, 1, 0))  # (1 + B * S * M, D)
    pixels = zip(rows.unbind(-1), weights.to(table.dtype).unbind(-1), strict=True)
    return sum(F.embedding(row, flat) * weight.unsqueeze(-1) for row, weight in pixels).flatten(3, 4)


def weighted_pixels(points: SamplingPoints) -> tuple[Tensor, Tensor]:
    """The four pixels around each location, or the nearest one: (B, Q, M, L, P, 4 | 1) each.

    Rows of the table (1 + B * S * M, D), the first where a pixel lies outside the valid part, and weights, which are
    NaN at a NaN location. The first row is zero, so that nothing outside is read, and drops the gradient of NaN.
    """
    location = points.pixel_locations()
    limit = points.valid_limits(location)[:, None, None, :, None]  # (1 or B, 1, 1, L, 1, 2)
    location = location.minimum(limit).clamp(min=OUTSIDE)  # infinity has no fraction
    low = location.detach().floor()
    fraction = location - low
    if points.sampling == "nearest":
        pixel = low.unsqueeze(-2)
        weights = 1 - fraction.sum(-1, keepdim=True)  # the location is a pixel: 1
    else:
        pixel = low.unsqueeze(-2) + as_tensor((0, 0, 1, 0, 0, 1, 1, 1), low).view(4, 2)  # (B, Q, M, L, P, 4, 2)
        x_weight, y_weight = (torch.stack([1 - f, f], dim=-1) for f in fraction.unbind(-1))
        weights = (y_weight.unsqueeze(-1) * x_weight.unsqueeze(-2)).flatten(-2)  # order (y, x): 00, 01, 10, 11

    inside = ((pixel >= 0) & (pixel < limit.unsqueeze(-2))).all(-1)
    return torch.where(inside, 1 + _table_rows(pixel, points), 0), weights


def _table_rows(pixel: Tensor, points: SamplingPoints) -> Tensor:
    """Rows of (B * S * M, D) for pixels (B, Q, M, L, P, 4 | 1, 2) inside; any number for others."""
    batch, _, heads = pixel.shape[:3]
    x, y = (c.long() for c in pixel.unbind(-1))
    width = points.level_sizes(x)[:, 0].view(-1, 1, 1)
    start = as_tensor(level_starts(points.shapes), x).view(-1, 1, 1)
    image = torch.arange(batch, device=x.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=x.device).view(-1, 1, 1, 1)
    return (image * points.num_tokens + start + y * width + x) * heads + head
