"""Every token of the memory as a candidate for a query: its features, its class logits and the box it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litedetr.models.detector_config import DetectorConfig, Padding
from litedetr.models.heads import DetectionHead
from litedetr.models.position import cell_centres
from litedetr.structures import FeaturePyramid

BASE_SIZE = 0.05  # of the image: width and height of the finest level's proposals
NEVER = -1e4  # a class logit that no score survives, finite in half precision


@dataclass(frozen=True)
class Candidates:
    """What each of S tokens would be as a query."""

    tokens: Tensor  # (B, S, C), projected and normed
    class_logits: Tensor  # (B, S, K)
    proposal_logit: Tensor  # (B, S, 4) the token's own box, cxcywh in logit space; +inf if it cannot be used

    def take(self, chosen: Tensor) -> Candidates:
        """Those of the indices `chosen` (B, Q)."""
        return Candidates(*(take(x, chosen) for x in (self.tokens, self.class_logits, self.proposal_logit)))


class BestTokens(nn.Module):
    """The choice of tokens. A module without parameters, so that a forward hook sees what is chosen, or replaces it."""

    def __init__(self, num_queries: int, padding: Padding) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.padding = padding

    def forward(self, score: Tensor, memory: FeaturePyramid, num_extra: int) -> tuple[Tensor, Tensor | None]:
        """The Q tokens of the highest score.

        The published code lets padded tokens compete, so that an image's queries depend on its batch.

        score: (B, S) of each token.
        memory: the encoder's pyramid of S tokens, for its padding.
        num_extra: how many more to choose than the detector's own queries. Q is smaller if there are fewer tokens.
        Returns chosen, (B, Q) int64, the tokens' indices, best first; and valid, (B, Q) bool, which of them are image,
            or None if all are.
        """
        number = self.num_queries + num_extra
        if score.shape[1] < number:  # a branch, as an export would carry min() along as a symbol
            number = score.shape[1]
        if memory.padding_mask is None or self.padding == "published":
            return score.topk(number, dim=1).indices, None
        chosen = score.masked_fill(memory.padding_mask, -torch.inf).topk(number, dim=1).indices
        return chosen, ~memory.padding_mask.gather(1, chosen)


class ProposalSelection(nn.Module):
    """What all two-stage selections share (Deformable DETR, appendix A.4): candidates, their head, the best of them.

    A subclass makes queries of the chosen ones, in its `forward`.
    """

    learned_content = True  # a content embedding for each rank among the chosen, those of H-DETR's branch included

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        channels = config.neck.channels
        self.padding = config.padding
        self.num_queries = config.query_selection.num_queries
        self.best = BestTokens(self.num_queries, config.padding)
        self.output = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.head = DetectionHead(channels, num_classes)
        if self.learned_content:
            self.content = nn.Embedding(self.num_queries + config.hybrid.num_queries, channels)
        nn.init.xavier_uniform_(self.output.weight)

    def candidates(self, memory: FeaturePyramid) -> Candidates:
        """All S tokens of the memory as candidates; those that cannot be used are taken for zeros."""
        proposal_logit, usable = _proposals(memory)
        tokens = self.norm(self.output(memory.tokens.masked_fill(~usable, 0)))
        return Candidates(tokens, self.head.classes(tokens), proposal_logit)

    def refine(self, candidates: Candidates) -> Tensor:
        """(B, S, 4) the candidates' boxes after the head's refinement, cxcywh in logit space."""
        return self.head.box(candidates.tokens).to(candidates.proposal_logit.dtype) + candidates.proposal_logit

    def learned(self, chosen: Tensor) -> Tensor:
        """(B, Q, C) the learned content of the `chosen` (B, Q), by rank."""
        return self.content.weight[: chosen.shape[1]].expand(chosen.shape[0], -1, -1)


def take(x: Tensor, chosen: Tensor) -> Tensor:
    """x (B, S, F), chosen (B, Q) -> (B, Q, F)."""
    return x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def silence(class_logits: Tensor, valid: Tensor | None) -> Tensor:
    """class_logits (B, Q, K), set to NEVER at queries that are not `valid` (B, Q)."""
    return class_logits if valid is None else class_logits.masked_fill(~valid.unsqueeze(-1), NEVER)


def _proposals(memory: FeaturePyramid) -> tuple[Tensor, Tensor]:
    """(B, S, 4) cell centres with the level's size in logit space, +inf where not usable; (B, S, 1) usable."""
    boxes = torch.cat([_level_boxes(memory, level) for level in range(len(memory.shapes))], dim=1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    if memory.padding_mask is not None:
        usable = usable & ~memory.padding_mask.unsqueeze(-1)
    logit = torch.log(boxes / (1 - boxes))
    return logit.masked_fill(~usable, torch.inf).to(memory.valid_ratios.dtype), usable


def _level_boxes(memory: FeaturePyramid, level: int) -> Tensor:
    """(B, H * W, 4) cxcywh relative to the valid image."""
    centre = cell_centres(memory, level)
    return torch.cat([centre, torch.full_like(centre, BASE_SIZE * 2**level)], dim=-1)
