"""The feed-forward network of the layers of encoder and decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with a residual and a norm (post-norm)."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """norm(x + W2 relu(W1 x + b1) + b2), with dropout behind both linear layers.

        x: (B, Q, C) tokens or queries.
        Returns the same shape.
        """
        hidden = self.dropout(F.relu_(self.linear1(x)))  # in place: the widest tensor of a layer
        return self.norm(x + self.dropout(self.linear2(hidden)))
