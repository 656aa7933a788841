"""The forward pass, one chunk of queries after the other so that its samples stay in the cache."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.cpu.rows import Rows
from kernels.inputs import Inputs, Saved


def forward(inputs: Inputs) -> Saved:
    """Output in the dtype of the values; the log-sum-exp is left out, since chunks recompute their softmax."""
    rows = Rows.of(inputs)
    out = rows.value.new_empty(*rows.offsets.shape[:2], inputs.value.shape[-1])
    for chunk in rows.chunks():
        out[chunk] = _attend(rows, chunk).view_as(out[chunk])
    return Saved(out.unflatten(0, inputs.points.offsets.shape[:2]).to(inputs.value.dtype), out.new_empty(0))


def _attend(rows: Rows, chunk: slice) -> Tensor:
    corners = rows.corners(chunk)
    weights = corners.weights()
    sampled = bag(rows.value, corners.rows, weights)
    if rows.logits is not None:
        return rows.logits[chunk].flatten(0, 1).unsqueeze(1).softmax(-1) @ sampled
    keys = sampled if rows.key is None else bag(rows.key, corners.rows, weights)
    return dot(rows.scaled_query(chunk), keys).softmax(-1) @ sampled


def bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """rows, weights (..., 4) -> (..., D)."""
    bags = F.embedding_bag(rows.view(-1, 4), table, per_sample_weights=weights.view(-1, 4), mode="sum")
    return bags.view(*rows.shape[:-1], table.shape[-1])


def dot(vectors: Tensor, samples: Tensor) -> Tensor:
    """vectors (N, V, D), samples (N, K, D) -> (N, V, K). The other order of the product takes several times as long."""
    return vectors @ samples.transpose(1, 2)
