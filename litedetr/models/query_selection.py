"""Query selection: the best tokens of the memory become the decoder's queries.

    kind               score             content          position            loss on
    mixed              best class        learned          of the decoder      the selected tokens   (DINO)
    two_stage          foreground        of the proposal  of the proposal     all tokens            (Deformable DETR)
    two_stage_mixed    foreground        learned          of the proposal     all tokens            (H-DETR)

Reference boxes are the selected tokens' refined proposals, detached, in all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litedetr.models.detector_config import DetectorConfig
from litedetr.models.position import box_embedding
from litedetr.models.proposals import ProposalSelection, silence, take
from litedetr.structures import FeaturePyramid, Predictions, Queries


class MixedSelection(ProposalSelection):
    """Mixed query selection (DINO, section 3.4): boxes from the selected tokens, content from a learned table."""

    def forward(self, memory: FeaturePyramid, num_extra: int = 0) -> tuple[Queries, Predictions]:
        """The tokens with the best class score become queries.

        memory: the encoder's pyramid, tokens (B, S, C).
        num_extra: how many queries to select beyond the detector's own.
        Returns queries, content (B, Q, C) and detached reference boxes (B, Q, 4), best first; and proposals, class
            logits (B, Q', K) and boxes (B, Q', 4) of the Q' tokens of the detector's own queries, for the loss.
        """
        candidates = self.candidates(memory)
        chosen, valid = self.best(candidates.class_logits.amax(-1), memory, num_extra)
        selected = candidates.take(chosen)
        boxes_logit = self.refine(selected)
        queries = Queries(self.learned(chosen), boxes_logit.detach(), valid)
        proposals = Predictions(silence(selected.class_logits, valid), boxes_logit.sigmoid(), valid=valid)
        return queries, proposals.split(self.num_queries)[0]


class TwoStageSelection(ProposalSelection):
    """Two-stage (Deformable DETR, appendix A.4): the queries know only the boxes of the selected tokens.

    The first class logit says how much of an object a token is, whatever its class.
    """

    learned_content = False

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        width = 2 * config.neck.channels
        self.embedding = nn.Linear(width, width)
        self.embedding_norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.embedding.weight)
        nn.init.zeros_(self.embedding.bias)

    def forward(self, memory: FeaturePyramid, num_extra: int = 0) -> tuple[Queries, Predictions]:
        """The tokens that are most of an object become queries.

        memory: the encoder's pyramid, tokens (B, S, C).
        num_extra: how many queries to select beyond the detector's own.
        Returns queries, best first: content and position (B, Q, C), projections of the boxes' sine embedding, and
            detached reference boxes (B, Q, 4); and proposals, class logits (B, S, K) and boxes (B, S, 4) of all tokens,
            for the loss.
        """
        candidates = self.candidates(memory)
        boxes_logit = self.refine(candidates)
        chosen, valid = self.best(candidates.class_logits[..., 0], memory, num_extra)
        reference_logit = take(boxes_logit, chosen).detach()
        position, content = self._embed(reference_logit, candidates.tokens.dtype)
        queries = Queries(self._content(content, chosen), reference_logit, valid, position)
        valid = self._not_padding(memory)
        class_logits = silence(candidates.class_logits, valid)
        return queries, Predictions(class_logits, boxes_logit.sigmoid(), foreground=True, valid=valid)

    def _embed(self, reference_logit: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Position and content, (B, Q, C) each."""
        sines = box_embedding(reference_logit.sigmoid(), self.embedding.in_features // 2)
        position, content = self.embedding_norm(self.embedding(sines.to(dtype))).chunk(2, dim=-1)
        return position, content

    def _content(self, of_proposals: Tensor, chosen: Tensor) -> Tensor:
        """(B, Q, C) the queries' content, given the one that comes from the proposals."""
        return of_proposals

    def _not_padding(self, memory: FeaturePyramid) -> Tensor | None:
        """(B, S). In the published code padding is background that costs loss, so that a loss depends on the batch."""
        if memory.padding_mask is None or self.padding == "published":
            return None
        return ~memory.padding_mask


class TwoStageMixedSelection(TwoStageSelection):
    """Two-stage, but with a learned content for each slot (H-DETR, "mixed query selection")."""

    learned_content = True

    def _content(self, of_proposals: Tensor, chosen: Tensor) -> Tensor:
        return self.learned(chosen)


KINDS = {"mixed": MixedSelection, "two_stage": TwoStageSelection, "two_stage_mixed": TwoStageMixedSelection}


def build_query_selection(config: DetectorConfig, num_classes: int) -> ProposalSelection:
    """The selection that `config.query_selection.kind` names."""
    return KINDS[config.query_selection.kind](config, num_classes)
