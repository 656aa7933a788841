"""The forward pass, one chunk of queries after the other."""

from __future__ import annotations

from torch import Tensor

from kernels.cpu import bags
from kernels.cpu.rows import Chunk, Rows
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
    image, _ = chunk
    corners = rows.corners(chunk)
    weights = corners.weights()
    if rows.logits is not None:
        scores = rows.logits[chunk].flatten(0, 1)
    else:
        keys = rows.value if rows.key is None else rows.key
        scores = bags.dots(rows.scaled_query(chunk).unsqueeze(1), keys[image], corners.rows, weights).squeeze(1)
    weights *= scores.softmax(-1).unsqueeze(-1)
    return bags.sums(rows.value[image], corners.rows, weights)
