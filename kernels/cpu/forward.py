"""The forward pass, one chunk of queries after the other."""

from __future__ import annotations

from torch import Tensor

from kernels.cpu import bags
from kernels.cpu.rows import Chunk, Rows, tables_of
from kernels.inputs import Inputs, Saved


def forward(inputs: Inputs) -> Saved:
    """Output in the dtype of the values; the log-sum-exp is left out, since chunks recompute their softmax."""
    rows = Rows.of(inputs)
    out = rows.value.new_empty(*rows.offsets.shape[:3], inputs.value.shape[-1])
    for chunk in rows.chunks():
        out[chunk] = _attend(rows, chunk).view_as(out[chunk])
    return Saved(out.to(inputs.value.dtype), out.new_empty(0))


def _attend(rows: Rows, chunk: Chunk) -> Tensor:
    """(N, D)."""
    corners = rows.corners(chunk)
    weights = corners.weights()
    if rows.logits is not None:
        scores = rows.logits[chunk].flatten(0, 2)
    else:
        keys = rows.value if rows.key is None else rows.key
        scores = bags.dots(
            rows.scaled_query(chunk).unsqueeze(1), tables_of(keys, chunk), corners.rows, weights
        ).squeeze(1)
    weights *= scores.softmax(-1).unsqueeze(-1)
    return bags.sums(tables_of(rows.value, chunk), corners.rows, weights)
