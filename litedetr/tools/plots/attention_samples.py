"""Where a detector's attentions sample for one point of the image, or one object, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from litedetr.models.record_attentions import RecordedCall

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Samples:
    """N sampling locations with their attention weights."""

    xy: np.ndarray  # (N, 2) relative to the image
    level: np.ndarray  # (N,) from the finest on
    weight: np.ndarray  # (N,)

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def num_outside(self) -> int:
        """How many lie outside the image, where there is nothing to read."""
        return int((~((self.xy >= 0) & (self.xy <= 1)).all(axis=1)).sum())

    def where(self, chosen: np.ndarray) -> Samples:
        return Samples(self.xy[chosen], self.level[chosen], self.weight[chosen])

    def finest(self, num_levels: int) -> Samples:
        """Those on the `num_levels` finest levels."""
        return self.where(self.level < num_levels)

    def largest(self, number: int) -> Samples:
        """The `number` of largest weight, or all there are, the largest first."""
        return self.where(np.argsort(-self.weight, kind="stable")[:number])


@dataclass(frozen=True)
class LayerSamples:
    """What some queries of one layer sample."""

    name: str  # of the layer, for people
    num_queries: int
    samples: Samples
    level_shares: np.ndarray  # (L,) weight on each level, averaged over queries and heads; they sum to 1


@dataclass(frozen=True)
class AttentionSamples:
    """What some queries sample in all layers of encoder or decoder."""

    layers: tuple[LayerSamples, ...]
    level_names: tuple[str, ...]  # from the finest on, `S4`, ..., `S1`

    @property
    def samples(self) -> Samples:
        parts = [layer.samples for layer in self.layers]
        return Samples(*(np.concatenate([getattr(part, name) for part in parts]) for name in Samples.__annotations__))

    @property
    def num_queries(self) -> int:
        return sum(layer.num_queries for layer in self.layers)

    @property
    def level_shares(self) -> np.ndarray:
        """(L,) averaged over layers."""
        return np.mean([layer.level_shares for layer in self.layers], axis=0)


def encoder_samples(calls: Iterable[RecordedCall], xy: tuple[float, float]) -> AttentionSamples:
    """Of the tokens whose cell holds the point xy, relative to the image: one of each level that a layer updates."""
    calls = [call for call in calls if call.name.startswith("encoder.")]
    names = level_names(calls[0].memory.shapes)
    layers = []
    for number, call in enumerate(calls, start=1):
        updated = names[slice(*call.query_levels)]
        label = updated[0] if len(updated) == 1 else f"{updated[-1]}-{updated[0]}"
        layers.append(_sampled(f"{number}\n{label}", call, tokens_at(call.query_shapes, xy)))
    return AttentionSamples(tuple(layers), names)


def decoder_samples(calls: Iterable[RecordedCall], query: int) -> AttentionSamples:
    """Of the decoder query of this index."""
    calls = [call for call in calls if call.name.startswith("decoder.")]
    layers = tuple(_sampled(str(number), call, [query]) for number, call in enumerate(calls, start=1))
    return AttentionSamples(layers, level_names(calls[0].memory.shapes))


def level_names(shapes: Shapes) -> tuple[str, ...]:
    """The paper's names, S1 the coarsest."""
    return tuple(f"S{len(shapes) - level}" for level in range(len(shapes)))


def tokens_at(shapes: Shapes, xy: tuple[float, float]) -> list[int]:
    """Index of the token of each level whose cell holds xy, relative to the image."""
    tokens, start = [], 0
    for height, width in shapes:
        column, row = min(int(xy[0] * width), width - 1), min(int(xy[1] * height), height - 1)
        tokens.append(start + row * width + column)
        start += height * width
    return tokens


def _sampled(name: str, call: RecordedCall, queries: Sequence[int]) -> LayerSamples:
    sampled = call.sampled(queries)
    locations = sampled.locations[0].double().cpu().numpy()  # (Q, M, L, P, 2)
    weights = sampled.weights[0].double().cpu().numpy()
    level = np.broadcast_to(np.arange(weights.shape[2])[:, None], weights.shape)
    samples = Samples(locations.reshape(-1, 2), level.reshape(-1), weights.reshape(-1))
    return LayerSamples(name, len(queries), samples, weights.sum(-1).mean((0, 1)))
