"""Samples as bags of weighted table rows, which `F.embedding_bag` sums as it reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BAGS_AT_ONCE = 1 << 15  # 4 MB of fp32 at D = 32


def dots(vectors: Tensor, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """vectors (N, V, D), rows and weights (N, K, 4) -> (N, V, K) dot products with the samples."""
    out = vectors.new_empty(*vectors.shape[:2], rows.shape[1])
    for samples, some_vectors, some_out in _pieces(table, rows, weights, vectors, out):
        # the other order of the product takes several times as long
        torch.bmm(some_vectors, samples.transpose(1, 2), out=some_out)
    return out


def attend(query: Tensor, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """query (N, D), rows and weights (N, K, 4) -> (N, D): softmax over the dot products with the samples, times these.

    Each piece is read once, and is in the cache when it is summed.
    """
    out = torch.empty_like(query)
    for samples, some_query, some_out in _pieces(table, rows, weights, query.unsqueeze(1), out.unsqueeze(1)):
        scores = torch.bmm(some_query, samples.transpose(1, 2)).squeeze(1)
        torch.bmm(softmax(scores).unsqueeze(1), samples, out=some_out)
    return out


def softmax(scores: Tensor) -> Tensor:
    """Over the K of scores (N, K). Over a first dimension PyTorch vectorises it, over a short last one it does not."""
    return scores.t().softmax(0).t().contiguous()


def _pieces(table: Tensor, rows: Tensor, weights: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Samples (n, K, D) of n of the N query heads at a time, with the same part of `others` (N, ...).

    So few that they stay in the cache until they are used.
    """
    num_bags = rows.shape[1]
    step = max(1, BAGS_AT_ONCE // max(1, num_bags))
    for some_rows, some_weights, *some in zip(*(x.split(step) for x in (rows, weights, *others)), strict=True):
        samples = _bags(table, some_rows.flatten(0, 1), some_weights.flatten(0, 1))
        yield samples.view(-1, num_bags, table.shape[-1]), *some


def sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """rows and weights (N, K, 4) -> (N, D), the sum of a query head's samples."""
    return _bags(table, rows.flatten(1), weights.flatten(1))


def _bags(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
