"""Dot products of vectors with table rows, which a sampled matrix product reads without writing them."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor


def products(vectors: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """vectors (N, V, D), table (rows, D), rows (N, K, C) -> (N, V, K, C) dot products with each of the rows.

    The table has at least C rows. Raises IndexError for a row that does not exist: torch would read whatever is there.
    """
    lowest, highest = (int(x) for x in rows.aminmax())
    if lowest < 0 or highest >= len(table):
        raise IndexError(f"rows: expected 0 to {len(table) - 1}, got {lowest} to {highest}")
    # torch cuts off what would be more elements than a dense matrix has
    parts = [_sampled(vectors, table, part) for part in rows.split(len(table) // rows.shape[-1], dim=1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _sampled(vectors: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """As `products`, of at most as many rows a head as the table has."""
    heads, num_vectors, _ = vectors.shape
    columns = rows.flatten(1).unsqueeze(1).expand(-1, num_vectors, -1)
    starts = torch.arange(0, columns.numel() + 1, columns.shape[-1], dtype=torch.int32)
    _let_torch_warn()
    pattern = torch.sparse_csr_tensor(
        starts,
        columns.reshape(-1),
        vectors.new_zeros(columns.numel()),
        size=(len(starts) - 1, len(table)),
        check_invariants=False,  # takes longer than the products, and refuses a row that a head reads twice
    )
    torch.sparse.sampled_addmm(pattern, vectors.flatten(0, 1), table.t(), beta=0.0, out=pattern)
    return pattern.values().view(heads, num_vectors, *rows.shape[1:])


@lru_cache(maxsize=1)
def _let_torch_warn() -> None:
    """Use up torch's warning that sparse CSR tensors are in beta, which it gives once in a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nothing = torch.zeros(1, dtype=torch.int32)
        torch.sparse_csr_tensor(nothing, nothing[:0], nothing[:0], size=(0, 0), check_invariants=False)
