"""Mixed query selection (DINO, section 3.4): the best tokens of the memory become the decoder's reference boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litedetr.models.config import Padding
from litedetr.models.heads import DetectionHead
from litedetr.structures import FeaturePyramid, Predictions, Queries

BASE_SIZE = 0.05  # of the image: width and height of the finest level's proposals
NEVER = -1e4  # a class logit that no score survives, finite in half precision


class QuerySelection(nn.Module):
    """forward(memory) -> (queries, proposals).

    queries: content is a learned embedding a slot, reference boxes are the selected tokens' refined proposals,
    detached. proposals: Predictions of the selected tokens, for the loss.
    """

    def __init__(self, channels: int, num_queries: int, num_classes: int, padding: Padding) -> None:
        super().__init__()
        self.padding = padding
        self.output = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.head = DetectionHead(channels, num_classes)
        self.content = nn.Embedding(num_queries, channels)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, memory: FeaturePyramid) -> tuple[Queries, Predictions]:
        proposal_logit, usable = self._proposals(memory)
        tokens = self.norm(self.output(memory.tokens.masked_fill(~usable, 0)))
        class_logits = self.head.classes(tokens)
        chosen, valid = self._select(class_logits, memory)

        take = chosen.unsqueeze(-1).expand
        tokens = tokens.gather(1, take(-1, -1, tokens.shape[-1]))
        class_logits = class_logits.gather(1, take(-1, -1, class_logits.shape[-1]))
        reference_logit = proposal_logit.gather(1, take(-1, -1, 4))
        boxes_logit = self.head.box(tokens).to(reference_logit.dtype) + reference_logit
        if valid is not None:
            class_logits = class_logits.masked_fill(~valid.unsqueeze(-1), NEVER)
        content = self.content.weight[: chosen.shape[1]].expand(len(chosen), -1, -1)
        return Queries(content, boxes_logit.detach(), valid), Predictions(class_logits, boxes_logit.sigmoid())

    def _select(self, class_logits: Tensor, memory: FeaturePyramid) -> tuple[Tensor, Tensor | None]:
        """(B, Q) tokens of the highest class logit, and which of them are image (None: all).

        The published code lets padded tokens compete, so that an image's queries depend on its batch.
        """
        score = class_logits.amax(-1)
        num_queries = min(self.content.num_embeddings, score.shape[1])
        if memory.padding_mask is None or self.padding == "published":
            return score.topk(num_queries, dim=1).indices, None
        chosen = score.masked_fill(memory.padding_mask, -torch.inf).topk(num_queries, dim=1).indices
        return chosen, ~memory.padding_mask.gather(1, chosen)

    def _proposals(self, memory: FeaturePyramid) -> tuple[Tensor, Tensor]:
        """(B, S, 4) cell centres with the level's size in logit space, +inf where not usable; (B, S, 1) usable."""
        ratios = memory.valid_ratios
        boxes = torch.cat([self._level_boxes(memory, level) for level in range(len(memory.shapes))], dim=1)
        usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
        if memory.padding_mask is not None:
            usable = usable & ~memory.padding_mask.unsqueeze(-1)
        logit = torch.log(boxes / (1 - boxes))
        return logit.masked_fill(~usable, torch.inf).to(ratios.dtype), usable

    @staticmethod
    def _level_boxes(memory: FeaturePyramid, level: int) -> Tensor:
        """(B, H * W, 4) cxcywh relative to the valid image."""
        height, width = memory.shapes[level]
        ratios = memory.valid_ratios[:, level]
        y, x = (torch.arange(n, device=ratios.device, dtype=ratios.dtype) + 0.5 for n in (height, width))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        centre = grid / (ratios[:, None] * ratios.new_tensor([width, height]))
        return torch.cat([centre, torch.full_like(centre, BASE_SIZE * 2**level)], dim=-1)
