"""The backward pass: of a chunk's samples only dot products are computed again, from those with table rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from litedetr.kernels.cpu import bags
from litedetr.kernels.cpu.corners import Corners, NearestPixels
from litedetr.kernels.cpu.products import products
from litedetr.kernels.cpu.rows import Chunk, Rows, tables_of
from litedetr.kernels.cpu.scatter import Scatter
from litedetr.kernels.cpu.table import Levels, unbordered
from litedetr.kernels.inputs import Gradients, Inputs


def backward(inputs: Inputs, grad_out: Tensor, reference_grad: bool) -> Gradients:
    """All gradients, in the shapes and dtypes of the inputs; that of the reference only if wanted."""
    rows = Rows.of(inputs)
    grads = _zeros(rows, reference_grad)
    d_out = grad_out.contiguous().to(rows.value.dtype)
    cells = Levels(inputs.points.shapes).cells()
    for chunk in rows.chunks():
        _backward_chunk(chunk, rows, cells, d_out[chunk].flatten(0, 2), grads)
    return _restored(grads, inputs)


def _zeros(rows: Rows, reference_grad: bool) -> Gradients:
    """Buffers of the shapes of `rows`."""
    reference = rows.reference if reference_grad else None
    tensors = rows.query, rows.key, rows.value, rows.logits, reference, rows.offsets
    return Gradients(*(None if x is None else x.new_zeros(x.shape) for x in tensors))


def _restored(grads: Gradients, inputs: Inputs) -> Gradients:
    """From the shapes of `Rows` to those of the inputs: tables without their borders, dtypes as they came."""
    key, value = (
        None if table is None else unbordered(table, inputs.value, inputs.points) for table in (grads.key, grads.value)
    )
    pairs = zip(replace(grads, key=key, value=value).tensors, inputs.tensors, strict=True)
    return Gradients(*(None if grad is None else grad.to(like.dtype) for grad, like in pairs))


def _backward_chunk(chunk: Chunk, rows: Rows, cells: Tensor, d_out: Tensor, grads: Gradients) -> None:
    """Add the chunk's part to `grads`; d_out (N, D), cells: see Levels.

    With p the attention weights, dO the gradient of the output and ds that of the scores, a sample's value gets
    p * dO and its key ds * q / sqrt(D); both reach the table through the corners' weights, the location by the
    samples' derivatives.
    """
    corners = rows.corners(chunk)
    values, d_values = tables_of(rows.value, chunk), tables_of(grads.value, chunk)
    scatter = Scatter.of(corners, cells, len(values))
    d_out = d_out.unsqueeze(1)
    if rows.logits is not None:
        (of_value,) = _products(d_out, values, corners)
        p = bags.softmax(rows.logits[chunk].flatten(0, 2))
        d_score = _d_score(p, of_value)
        d_location = [p * x for x in of_value[1:]]
        scatter.add(d_values, d_out, [p])
        grads.logits[chunk] = d_score.view_as(grads.logits[chunk])
    else:
        q = rows.scaled_query(chunk).unsqueeze(1)
        if rows.key is None:  # one reading, and one adding
            keys, both = values, torch.cat([d_out, q], dim=1)
            of_value, of_key = _products(both, values, corners)
        else:
            keys = tables_of(rows.key, chunk)
            (of_value,), (of_key,) = _products(d_out, values, corners), _products(q, keys, corners)
        p = bags.softmax(of_key[0])
        d_score = _d_score(p, of_value)
        d_location = [(p * x).addcmul_(d_score, y) for x, y in zip(of_value[1:], of_key[1:], strict=True)]
        if rows.key is None:
            scatter.add(d_values, both, [p, d_score])
        else:
            scatter.add(d_values, d_out, [p])
            scatter.add(tables_of(grads.key, chunk), q, [d_score])
        d_query = bags.sums(keys, corners.rows, corners.weights().mul_(d_score.unsqueeze(-1)))
        grads.query[chunk] = d_query.mul_(q.shape[-1] ** -0.5).view_as(grads.query[chunk])
    if d_location:
        _add_location(chunk, torch.stack(d_location, dim=-1), rows, grads)


def _products(vectors: Tensor, table: Tensor, corners: Corners | NearestPixels) -> list[tuple[Tensor, ...]]:
    """For each of the vectors (N, V, D) its products (N, K) with the samples and, if bilinear, their derivatives."""
    combined = corners.combined(products(vectors, table, corners.rows))
    return list(zip(*(x.unbind(1) for x in combined), strict=True))


def _d_score(p: Tensor, of_value: tuple[Tensor, ...]) -> Tensor:
    """Through the softmax."""
    d_weight, *_ = of_value
    return p * (d_weight - (p * d_weight).sum(-1, keepdim=True))


def _add_location(chunk: Chunk, d_location: Tensor, rows: Rows, grads: Gradients) -> None:
    """From the gradient of the pixel positions (N, K, 2) to those of offsets and reference."""
    size, (reference, offsets) = rows.grid.size, rows.points(chunk)
    d_location = d_location.view(offsets.shape)
    centre = (d_location * size).sum((1, 3)) if grads.reference is not None else None
    if reference.shape[-1] == 4:
        half = size * (0.5 / offsets.shape[-2])
        if centre is not None:
            centre = torch.cat([centre, (d_location * offsets * half).sum((1, 3))], dim=-1)
        d_location = d_location * reference[:, None, :, None, 2:] * half
    grads.offsets[chunk] = d_location.view_as(grads.offsets[chunk])
    if centre is not None:
        d_reference = grads.reference[chunk[:2]]
        d_reference += centre.view_as(d_reference)
