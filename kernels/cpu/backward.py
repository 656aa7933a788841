"""The backward pass: a chunk's samples are computed again, and their derivatives by x and y as bags."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cpu.corners import Corners
from kernels.cpu.forward import bag, dot
from kernels.cpu.rows import Rows
from kernels.cpu.scatter import Scatter
from kernels.cpu.table import unbordered
from kernels.inputs import Gradients, Inputs


def backward(inputs: Inputs, grad_out: Tensor) -> Gradients:
    """All gradients, in the shapes and dtypes of the inputs."""
    rows = Rows.of(inputs)
    grads = RowGradients.zeros(rows)
    d_out = grad_out.to(rows.value.dtype).flatten(0, 1)
    for chunk in rows.chunks():
        _backward_chunk(chunk, rows, d_out[chunk], grads)
    return grads.restored(inputs)


@dataclass(frozen=True)
class RowGradients:
    """Buffers of the shapes of `Rows`; None where the input is."""

    query: Tensor | None
    key: Tensor | None
    value: Tensor
    logits: Tensor | None
    reference: Tensor
    offsets: Tensor

    @classmethod
    def zeros(cls, rows: Rows) -> RowGradients:
        tensors = rows.query, rows.key, rows.value, rows.logits, rows.reference, rows.offsets
        return cls(*(None if x is None else torch.zeros_like(x) for x in tensors))

    def restored(self, inputs: Inputs) -> Gradients:
        tables = {
            name: None if table is None else unbordered(table, inputs.value, inputs.points)
            for name, table in (("key", self.key), ("value", self.value))
        }
        return Gradients(
            *(
                None if like is None else (tables.get(name, getattr(self, name)).view(like.shape).to(like.dtype))
                for name, like in zip(Gradients.__dataclass_fields__, inputs.tensors, strict=True)
            )
        )


def _backward_chunk(chunk: slice, rows: Rows, grad_out: Tensor, grads: RowGradients) -> None:
    """Add the chunk's part to `grads`.

    With p the attention weights, dO the gradient of the output and ds that of the scores, a sample's value gets
    p * dO and its key ds * q / sqrt(D); both reach the table through the corners' weights, the location by the slopes.
    """
    corners = rows.corners(chunk)
    samples = Samples.of(corners)
    scatter = Scatter.of(corners)
    d_out = grad_out.reshape(-1, 1, grad_out.shape[-1])  # (N, 1, D)
    q = None if rows.query is None else rows.scaled_query(chunk)

    if rows.logits is not None:
        value_dots, _ = samples.dot(rows.value, d_out)
        p = rows.logits[chunk].flatten(0, 1).softmax(-1)
    elif rows.key is None:
        both, keys = samples.dot(rows.value, torch.cat([d_out, q], dim=1))
        value_dots, key_dots = both[:, :1], both[:, 1:]
    else:
        value_dots, _ = samples.dot(rows.value, d_out)
        key_dots, keys = samples.dot(rows.key, q)
    if rows.logits is None:
        p = key_dots[:, 0, 0].softmax(-1)

    d_weight = value_dots[:, 0, 0]  # (N, K)
    d_score = p * (d_weight - (p * d_weight).sum(-1, keepdim=True))
    d_location = p.unsqueeze(1) * value_dots[:, 0, 1:]  # (N, 2, K)
    sums = scatter.sums(d_out, p)
    if rows.logits is not None:
        grads.logits[chunk] = d_score.view_as(grads.logits[chunk])
    else:
        d_location += d_score.unsqueeze(1) * key_dots[:, 0, 1:]
        d_query = d_score.unsqueeze(1) @ keys * q.shape[-1] ** -0.5
        grads.query[chunk] = d_query.view_as(grads.query[chunk])
        key_sums = scatter.sums(q, d_score)
        if rows.key is None:
            sums += key_sums
        else:
            scatter.add(grads.key, key_sums)
    scatter.add(grads.value, sums)
    d_location = (d_location.transpose(1, 2) * corners.inside).view_as(rows.offsets[chunk])
    _add_location(chunk, d_location, rows, grads)


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
        samples = bag(table, self.rows, self.weights)
        num_samples = samples.shape[1] // 3
        return dot(vectors, samples).unflatten(-1, (3, num_samples)), samples[:, :num_samples]


def _add_location(chunk: slice, d_location: Tensor, rows: Rows, grads: RowGradients) -> None:
    """From the gradient of the pixel positions (n, M, L, P, 2) to those of offsets and reference."""
    size, reference, offsets = rows.grid.size, rows.reference[chunk], rows.offsets[chunk]
    if reference.shape[-1] == 2:
        grads.offsets[chunk] = d_location
        grads.reference[chunk] = (d_location * size).sum((1, 3))
        return
    half = size * (0.5 / offsets.shape[-2])
    grads.offsets[chunk] = d_location * reference[:, None, :, None, 2:] * half
    grads.reference[chunk, :, :2] = (d_location * size).sum((1, 3))
    grads.reference[chunk, :, 2:] = (d_location * offsets * half).sum((1, 3))
