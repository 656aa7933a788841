"""The hybrid branch (H-DETR, section 3.2): training queries, several of which learn the same object."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litedetr.models.detector_config import DetectorConfig
from litedetr.structures import OneToManyQueries, Queries


class Hybrid(nn.Module):
    """forward(queries) -> (the detector's own queries, one-to-many queries).

    The best proposals stay the detector's own, as without the branch; the next best, `hybrid.num_queries` of them or as
    many as there are tokens, are matched one-to-many. It has no parameters.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.num_own = config.query_selection.num_queries
        self.num_queries = config.hybrid.num_queries
        self.num_repeats = config.hybrid.num_repeats

    def forward(self, queries: Queries) -> tuple[Queries, OneToManyQueries]:
        own, others = queries.split(self.num_own)
        return own, OneToManyQueries(others, self.num_repeats)


def separating_mask(one_to_many: OneToManyQueries, num_queries: int) -> Tensor:
    """(1, Q', Q') bool, True where query i may attend to j: one-to-many queries, then `num_queries` others; each group
    attends only to itself.
    """
    own = torch.arange(len(one_to_many) + num_queries, device=one_to_many.queries.content.device) >= len(one_to_many)
    return (own[:, None] == own[None, :]).unsqueeze(0)
