"""Multi-scale attention of queries to a feature pyramid: the one place that calls the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litedetr.kernels.functional import deformable_attention, key_aware_attention
from litedetr.kernels.inputs import Inputs
from litedetr.kernels.points import SamplingPoints
from litedetr.kernels.reference import attention_weights
from litedetr.models.detector_config import AttentionConfig, AttentionKind
from litedetr.structures import FeaturePyramid


@dataclass(frozen=True)
class SampledAttention:
    """What an attention reads, and how much of it."""

    # (B, Q, M, L, P, 2), (x, y) relative to each level; outside [0, 1] if a sample lies outside of the level. With
    # nearest sampling the centres of the pixels that are read.
    locations: Tensor
    weights: Tensor  # (B, Q, M, L, P), which sum to 1 for each query and head


class MultiScaleAttention(nn.Module):
    """Attention of each query to L * P samples for each of M heads, whose locations the query predicts.

    The kinds differ in the scores that the softmax turns into attention weights:

        deformable         a linear function of the query              (Deformable DETR, Eq. 3)
        key_aware          q . k / sqrt(D), with keys k sampled too    (Lite DETR, Eq. 4)
        key_aware_shared   the same, and the keys are the values       (published Lite-DINO)
    """

    def __init__(self, kind: AttentionKind, channels: int, num_levels: int, config: AttentionConfig) -> None:
        super().__init__()
        self.kind = kind
        self.backend = config.backend
        self.sampling = config.sampling
        self.num_heads = config.num_heads
        self.grid = (config.num_heads, num_levels, config.num_points)
        num_samples = math.prod(self.grid)
        self.sampling_offsets = nn.Linear(channels, 2 * num_samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if kind == "deformable":
            self.attention_weights = nn.Linear(channels, num_samples)
        else:
            self.query_proj = nn.Linear(channels, channels)
        if kind == "key_aware":
            self.key_proj = nn.Linear(channels, channels)
        self._initialise()
        if self.sampling == "nearest":  # no gradient, but the weight decay would move them
            self.sampling_offsets.requires_grad_(False)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: FeaturePyramid,
        query_shapes: tuple[tuple[int, int], ...] | None = None,
    ) -> Tensor:
        """W_out concat_m(sum_lp A_mlp V_m(p_mlp)), for heads m, levels l and points p (Lite DETR, Eqs. 3 and 4).

        A are the attention weights, a softmax over levels and points; V_m(p) is the value of head m, sampled at p. The
        values, and the keys if there are any, are projections of the memory's tokens without their position. On padding
        and outside of a level they are 0; such a sample keeps its share of the softmax.

        query: (B, Q, C) with the position added.
        reference: (B, Q, L, 2) points, (x, y), or (B, Q, L, 4) boxes, cxcywh, relative to each level. Offsets count in
            pixels of the level from a point, and in half sides over P from the centre of a box.
        memory: the pyramid of S tokens (B, S, C) that is attended to.
        query_shapes: (H, W) of some levels if the queries are their cells, so that neighbours are worked together;
            None for other queries. It does not change the result.
        Returns (B, Q, C), what the queries have read.
        Raises ValueError if shapes do not fit each other or the backend cannot work with these tensors.
        """
        inputs = self._inputs(query, reference, memory, query_shapes)
        if inputs.logits is not None:
            attended = deformable_attention(inputs.value, inputs.logits, inputs.points, self.backend)
        else:
            attended = key_aware_attention(inputs.query, inputs.value, inputs.points, inputs.key, self.backend)
        return self.output_proj(attended)

    def sampled(self, query: Tensor, reference: Tensor, memory: FeaturePyramid) -> SampledAttention:
        """Where `forward` samples for the same arguments, and how it weights the samples; in plain PyTorch.

        It holds every sample at once, so it is for few queries.
        """
        inputs = self._inputs(query, reference, memory, None)
        size = inputs.points.level_sizes(reference)
        locations = (inputs.points.pixel_locations() + 0.5) / size.unsqueeze(1)
        return SampledAttention(locations, attention_weights(inputs).unflatten(-1, self.grid[1:]))

    def _inputs(
        self,
        query: Tensor,
        reference: Tensor,
        memory: FeaturePyramid,
        query_shapes: tuple[tuple[int, int], ...] | None,
    ) -> Inputs:
        points = SamplingPoints(
            reference.to(torch.promote_types(query.dtype, torch.float32)),
            self.sampling_offsets(query).unflatten(-1, (*self.grid, 2)),
            memory.shapes,
            memory.valid_sizes,
            query_shapes,
            self.sampling,
        )
        value = self._heads(self.value_proj(memory.tokens))
        if self.kind == "deformable":
            logits = self._heads(self.attention_weights(query))
            return Inputs(query=None, key=None, value=value, logits=logits, points=points)
        key = self._heads(self.key_proj(memory.tokens)) if self.kind == "key_aware" else None
        return Inputs(query=self._heads(self.query_proj(query)), key=key, value=value, logits=None, points=points)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def _initialise(self) -> None:
        """Each head starts with its own direction, in which its points lie one pixel apart.

        Then the heads look at different places from the first step on. With `deformable` all scores start at zero.
        """
        heads, levels, num_points = self.grid
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        ring = direction.view(heads, 1, 1, 2) * torch.arange(1, num_points + 1).view(-1, 1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(heads, levels, num_points, 2).flatten())
        if self.kind == "deformable":
            nn.init.zeros_(self.attention_weights.weight)
            nn.init.zeros_(self.attention_weights.bias)
        for name in ("value_proj", "output_proj", "query_proj", "key_proj"):
            if hasattr(self, name):
                nn.init.xavier_uniform_(getattr(self, name).weight)
                nn.init.zeros_(getattr(self, name).bias)
