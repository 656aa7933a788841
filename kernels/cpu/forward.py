"""The forward pass, one chunk of queries after the other."""

from __future__ import annotations

from torch import Tensor

from litedetr.kernels.cpu import bags
from litedetr.kernels.cpu.rows import Chunk, Rows, tables_of
from litedetr.kernels.inputs import Inputs, Saved


def forward(inputs: Inputs) -> Saved:
    """Output in the dtype of the values; the log-sum-exp is left out, since chunks recompute their softmax."""
    rows = Rows.of(inputs)
    out = rows.value.new_empty(*inputs.points.offsets.shape[:3], inputs.value.shape[-1])
    for chunk in rows.chunks():
        out[chunk] = _attend(rows, chunk).view_as(out[chunk])
    return Saved(out.to(inputs.value.dtype), out.new_empty(0))


def _attend(rows: Rows, chunk: Chunk) -> Tensor:
    """(N, D)."""
    corners = rows.corners(chunk)
    weights = corners.weights()
    values = tables_of(rows.value, chunk)
    if rows.logits is None and rows.key is None:
        return bags.attend(rows.scaled_query(chunk), values, corners.rows, weights)
    if rows.logits is not None:
        scores = rows.logits[chunk].flatten(0, 2)
    else:
        query, keys = rows.scaled_query(chunk).unsqueeze(1), tables_of(rows.key, chunk)
        scores = bags.dots(query, keys, corners.rows, weights).squeeze(1)
    weights *= bags.softmax(scores).unsqueeze(-1)
    return bags.sums(values, corners.rows, weights)
