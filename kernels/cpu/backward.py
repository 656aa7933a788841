"""The backward pass: a chunk's samples are computed again, and their derivatives by x and y as bags."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litedetr.kernels.cpu import bags
from litedetr.kernels.cpu.corners import Corners, NearestPixels
from litedetr.kernels.cpu.rows import Chunk, Rows, tables_of
from litedetr.kernels.cpu.table import unbordered
from litedetr.kernels.inputs import Gradients, Inputs


def backward(inputs: Inputs, grad_out: Tensor, reference_grad: bool) -> Gradients:
    """All gradients, in the shapes and dtypes of the inputs; that of the reference only if wanted."""
    rows = Rows.of(inputs)
    grads = _zeros(rows, reference_grad)
    d_out = grad_out.to(rows.value.dtype)
    for chunk in rows.chunks():
        _backward_chunk(chunk, rows, d_out[chunk].flatten(0, 2), grads)
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


def _backward_chunk(chunk: Chunk, rows: Rows, d_out: Tensor, grads: Gradients) -> None:
    """Add the chunk's part to `grads`; d_out (N, D).

    With p the attention weights, dO the gradient of the output and ds that of the scores, a sample's value gets
    p * dO and its key ds * q / sqrt(D); both reach the table through the corners' weights, the location by the slopes.
    """
    value, d_value = tables_of(rows.value, chunk), tables_of(grads.value, chunk)
    corners = rows.corners(chunk)
    weights = corners.weights()
    samples = Samples.of(corners, weights)
    scatter = bags.Scatter.of(corners.rows, len(value))

    if rows.logits is not None:
        value_dots, key_dots = samples.dots(d_out.unsqueeze(1), value)[:, 0], None
        p = rows.logits[chunk].flatten(0, 2).softmax(-1)
    else:
        q = rows.scaled_query(chunk)
        value_dots, key_dots = _key_aware_dots(samples, d_out, q, rows, chunk)
        p = key_dots[:, 0].softmax(-1)

    d_weight = value_dots[:, 0]  # (N, K)
    d_score = p * (d_weight - (p * d_weight).sum(-1, keepdim=True))
    d_location = p.unsqueeze(1) * value_dots[:, 1:]  # (N, 2, K)
    scatter.add(d_value, d_out, weights * p.unsqueeze(-1))
    if key_dots is None:
        grads.logits[chunk] = d_score.view_as(grads.logits[chunk])
    else:
        d_location.addcmul_(d_score.unsqueeze(1), key_dots[:, 1:])
        keys, d_keys = value, d_value
        if rows.key is not None:
            keys, d_keys = tables_of(rows.key, chunk), tables_of(grads.key, chunk)
        weights *= d_score.unsqueeze(-1)
        scatter.add(d_keys, q, weights)
        d_query = bags.sums(keys, corners.rows, weights) * q.shape[-1] ** -0.5
        grads.query[chunk] = d_query.view_as(grads.query[chunk])
    if samples.parts > 1:
        _add_location(chunk, d_location.transpose(1, 2).reshape(rows.points(chunk)[1].shape), rows, grads)


@dataclass(frozen=True)
class Samples:
    """What the backward pass reads, as bags (N, parts * K, C): each sample and, if bilinear, its derivatives."""

    rows: Tensor
    weights: Tensor
    parts: int  # 3: samples, derivatives by x and by y; 1: nearest samples, which have none

    @classmethod
    def of(cls, corners: Corners | NearestPixels, weights: Tensor) -> Samples:
        """weights: the corners'."""
        parts = weights, *corners.slopes()
        return cls(corners.rows.repeat(1, len(parts), 1), torch.cat(parts, dim=1), len(parts))

    def dots(self, vectors: Tensor, table: Tensor) -> Tensor:
        """vectors (N, V, D) -> (N, V, parts, K) dot products with sample, x and y derivative."""
        return bags.dots(vectors, table, self.rows, self.weights).unflatten(-1, (self.parts, -1))


def _key_aware_dots(samples: Samples, d_out: Tensor, q: Tensor, rows: Rows, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """(N, parts, K) dot products of dO with the values and of q with the keys; one reading where they are the same."""
    if rows.key is None:
        return samples.dots(torch.stack([d_out, q], dim=1), tables_of(rows.value, chunk)).unbind(1)
    pairs = (d_out, rows.value), (q, rows.key)
    return tuple(samples.dots(vectors.unsqueeze(1), tables_of(table, chunk))[:, 0] for vectors, table in pairs)


def _add_location(chunk: Chunk, d_location: Tensor, rows: Rows, grads: Gradients) -> None:
    """From the gradient of the pixel positions (n, M, L, P, 2) to those of offsets and reference."""
    size, (reference, offsets) = rows.grid.size, rows.points(chunk)
    centre = (d_location * size).sum((1, 3)) if grads.reference is not None else None
    if reference.shape[-1] == 4:
        half = size * (0.5 / offsets.shape[-2])
        if centre is not None:
            centre = torch.cat([centre, (d_location * offsets * half).sum((1, 3))], dim=-1)
        d_location = d_location * reference[:, None, :, None, 2:] * half
    grads.offsets[chunk] = d_location.view_as(grads.offsets[chunk])
    if centre is not None:
        grads.reference[chunk] = centre.view_as(grads.reference[chunk])
