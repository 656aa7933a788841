"""The hybrid branch (H-DETR, section 3.2): training queries, several of which learn the same object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from litedetr.models.detector_config import DetectorConfig
from litedetr.models.training_queries import TrainingQueries, silenced
from litedetr.structures import DetectorOutput, OneToManyOutput, Predictions, Queries, TargetBatch


@dataclass(frozen=True)
class OneToManyQueries(TrainingQueries):
    """Queries of which `num_repeats` are matched to every object."""

    queries: Queries
    num_repeats: int
    sees_own = False

    def attention_mask(self) -> Tensor:
        """(1, Q, Q): all attend to all."""
        return torch.ones(1, len(self), len(self), dtype=torch.bool, device=self.queries.content.device)

    def add_to(self, output: DetectorOutput, layers: tuple[Predictions, ...]) -> DetectorOutput:
        found = tuple(silenced(layer, self.queries.valid) for layer in layers)
        return replace(output, one_to_many=OneToManyOutput(found, self.num_repeats))


class Hybrid(nn.Module):
    """The best proposals stay the detector's own; the next best are matched one-to-many. It has no parameters."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.num_own = config.query_selection.num_queries
        self.num_extra = config.hybrid.num_queries  # queries that query selection makes beyond the detector's own
        self.num_repeats = config.hybrid.num_repeats

    def forward(self, queries: Queries, targets: TargetBatch) -> tuple[Queries, OneToManyQueries]:
        """Split the selected queries.

        queries: (B, Q, ...) best first, as query selection made them; Q is up to `num_own + num_extra`, fewer if an
        image has fewer tokens.
        targets: not read; the losses match them.
        Returns the detector's own queries, as without the branch, and the one-to-many queries, maybe none.
        """
        own, others = queries.split(self.num_own)
        return own, OneToManyQueries(others, self.num_repeats)
