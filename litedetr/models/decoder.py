"""The DINO decoder: queries read the memory and refine their boxes layer by layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litedetr.boxes import inverse_sigmoid
from litedetr.models.attention import MultiScaleAttention
from litedetr.models.config import AttentionKind, DetectorConfig
from litedetr.models.denoising import group_mask
from litedetr.models.encoder import FeedForward
from litedetr.models.heads import MLP, DetectionHead
from litedetr.models.position import box_embedding
from litedetr.models.query_selection import NEVER
from litedetr.structures import (
    DenoisingOutput,
    DenoisingQueries,
    DetectorOutput,
    FeaturePyramid,
    Predictions,
    Queries,
)


class SelfAttention(nn.Module):
    """Multi-head attention among queries; position is added to queries and keys, not to values."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(channels, 2 * channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        joint = torch.empty(3 * channels, channels)
        nn.init.xavier_uniform_(joint)  # as one (3 C, C) matrix, like torch's own attention
        with torch.no_grad():
            self.query_key.weight.copy_(joint[: 2 * channels])
            self.value.weight.copy_(joint[2 * channels :])
        for linear in (self.query_key, self.value, self.output):
            nn.init.zeros_(linear.bias)

    def forward(self, content: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """content, position (B, Q, C); mask (B, Q, Q) bool, True where attention is allowed, or None."""
        query, key = self.query_key(content + position).chunk(2, dim=-1)
        heads = [x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, self.value(content))]
        mask = mask if mask is None else mask.unsqueeze(1)
        attended = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        return self.output(attended.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, feed-forward (post-norm)."""

    def __init__(self, channels: int, num_levels: int, hidden: int, config: DetectorConfig) -> None:
        super().__init__()
        kind: AttentionKind = config.attention.decoder
        self.self_attention = SelfAttention(channels, config.attention.num_heads)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = MultiScaleAttention(kind, channels, num_levels, config.attention)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, hidden)

    def forward(
        self, content: Tensor, position: Tensor, reference: Tensor, memory: FeaturePyramid, mask: Tensor | None
    ) -> Tensor:
        content = self.self_norm(content + self.self_attention(content, position, mask))
        content = self.cross_norm(content + self.cross_attention(content + position, reference, memory))
        return self.feedforward(content)


class Decoder(nn.Module):
    """forward(queries, memory, denoising) -> DetectorOutput.

    The reference box of layer n + 1 is layer n's refined and detached one, while layer n + 1's loss sees it
    undetached ("look forward twice", DINO, section 3.5). Heads and final norm are shared by all layers.
    The published code embeds boxes relative to the padded image; `exact` padding embeds them relative to the image.
    """

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        channels = config.neck.channels
        self.layers = nn.ModuleList(
            DecoderLayer(channels, config.neck.num_levels, config.decoder.feedforward, config)
            for _ in range(config.decoder.num_layers)
        )
        self.position = MLP(2 * channels, channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.head = DetectionHead(channels, num_classes)
        self.channels = channels
        self.padding = config.padding

    def forward(
        self, queries: Queries, memory: FeaturePyramid, denoising: DenoisingQueries | None = None
    ) -> DetectorOutput:
        content, reference_logit = _join(queries, denoising)
        mask = _attention_mask(queries, denoising)
        ratios = memory.valid_ratios.repeat(1, 1, 2).unsqueeze(1)  # (B, 1, L, 4)
        reference = reference_logit.sigmoid()
        predictions = []
        for layer in self.layers:
            per_level = reference.detach().unsqueeze(2) * ratios  # (B, Q, L, 4)
            seen = per_level[:, :, 0] if self.padding == "published" else reference.detach()
            position = self.position(box_embedding(seen, self.channels).to(content.dtype))
            content = layer(content, position, per_level, memory, mask)
            predictions.append(self._predict(content, reference))
            reference = self.head.refine(content, inverse_sigmoid(reference.detach()))
        return _split(predictions, queries, denoising)

    def _predict(self, content: Tensor, reference: Tensor) -> Predictions:
        normed = self.norm(content)
        return Predictions(self.head.classes(normed), self.head.refine(normed, inverse_sigmoid(reference)))


def _join(queries: Queries, denoising: DenoisingQueries | None) -> tuple[Tensor, Tensor]:
    """Content and reference of the denoising queries, if any, then of the queries."""
    if denoising is None:
        return queries.content, queries.reference_logit
    noised = denoising.queries
    return (
        torch.cat([noised.content, queries.content], dim=1),
        torch.cat([noised.reference_logit.to(queries.reference_logit.dtype), queries.reference_logit], dim=1),
    )


def _attention_mask(queries: Queries, denoising: DenoisingQueries | None) -> Tensor | None:
    """(B, Q, Q) bool, True where query i may attend to j; None: everywhere."""
    num_queries = queries.content.shape[1]
    mask = None if denoising is None else group_mask(denoising, num_queries)
    if queries.valid is None:
        return mask
    valid = queries.valid if denoising is None else torch.cat([denoising.valid, queries.valid], dim=1)
    allowed = valid[:, None, :] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return allowed if mask is None else allowed & mask


def _split(predictions: list[Predictions], queries: Queries, denoising: DenoisingQueries | None) -> DetectorOutput:
    if denoising is None:
        return DetectorOutput(tuple(_silence(layer, queries) for layer in predictions))
    parts = [layer.split(len(denoising)) for layer in predictions]
    noised = DenoisingOutput(tuple(first for first, _ in parts), denoising.num_groups)
    return DetectorOutput(tuple(_silence(rest, queries) for _, rest in parts), denoising=noised)


def _silence(predictions: Predictions, queries: Queries) -> Predictions:
    """Queries that fell on padding predict nothing."""
    if queries.valid is None:
        return predictions
    return Predictions(predictions.class_logits.masked_fill(~queries.valid.unsqueeze(-1), NEVER), predictions.boxes)
