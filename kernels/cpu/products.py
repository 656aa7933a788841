"""Dot products of vectors with table rows, which are never written: a sampled matrix product sums as it reads them."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor


def products(vectors: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """vectors (N, V, D), table (rows, D), rows (N, K, C) -> (N, V, K, C) dot products with each of the rows.

    torch does not check that the rows exist.
    """
    heads, num_vectors, _ = vectors.shape
    per_head = rows[0].numel()
    columns = rows.view(heads, 1, per_head).expand(-1, num_vectors, -1).reshape(-1)
    start = torch.arange(0, columns.numel() + 1, per_head, dtype=columns.dtype, device=columns.device)
    _announce_sparse()
    pattern = torch.sparse_csr_tensor(
        start,
        columns,
        vectors.new_zeros(len(columns)),
        size=(len(start) - 1, len(table)),
        check_invariants=False,  # which takes longer than the products, and rows of one sample may be the same
    )
    torch.sparse.sampled_addmm(pattern, vectors.flatten(0, 1), table.t(), beta=0.0, out=pattern)
    return pattern.values().view(heads, num_vectors, *rows.shape[1:])


@lru_cache(maxsize=1)
def _announce_sparse() -> None:
    """Let torch warn that sparse CSR tensors are in beta, which it does once in a process, where nobody hears it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = torch.zeros(1, dtype=torch.int32, device="cpu")
        torch.sparse_csr_tensor(index, index[:0], index[:0], size=(0, 0), check_invariants=False)
