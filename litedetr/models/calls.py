"""Which attentions a detector calls, and with what sizes; autotune and the benchmarks of the kernels read it."""

from __future__ import annotations

from dataclasses import dataclass

from litedetr.models.detector_config import AttentionKind, DetectorConfig
from litedetr.models.neck import num_backbone_levels

BACKBONE_HALVINGS = 5  # a backbone ends at stride 32
Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AttentionCall:
    """where: encoder or decoder. shapes: (H, W) of the memory's levels, fine to coarse.

    query_levels: the queries are the cells of the levels [first, last); None: `num_queries` boxes. count: calls of one
    forward pass.
    """

    where: str
    kind: AttentionKind
    shapes: Shapes
    query_levels: tuple[int, int] | None
    num_queries: int
    count: int


def attention_calls(config: DetectorConfig, image_size: tuple[int, int]) -> list[AttentionCall]:
    """All calls for one image of (height, width); the decoder's once without and once with the queries of training."""
    shapes = level_shapes(config.neck.num_levels, image_size)
    cells = [h * w for h, w in shapes]

    def of_levels(first: int, last: int, count: int) -> AttentionCall:
        return AttentionCall("encoder", config.attention.encoder, shapes, (first, last), sum(cells[first:last]), count)

    seen = shapes[-config.num_memory_levels :]
    tokens, queries = sum(h * w for h, w in seen), config.query_selection.num_queries
    learning = min(queries + config.hybrid.num_queries, tokens) + 2 * config.denoising.num_pairs
    numbers = sorted({min(queries, tokens), learning})
    decoder = [
        AttentionCall("decoder", config.attention.decoder, seen, None, number, config.decoder.num_layers)
        for number in numbers
    ]
    return [of_levels(*group) for group in _encoder_groups(config) if group[2]] + decoder


def level_shapes(num_levels: int, image_size: tuple[int, int]) -> Shapes:
    """Sizes of the levels, fine to coarse; every halving rounds up."""
    from_backbone = num_backbone_levels(num_levels)
    sizes, size = [], image_size
    for _ in range(BACKBONE_HALVINGS + num_levels - from_backbone):
        size = tuple(-(-side // 2) for side in size)
        sizes.append(size)
    return tuple(sizes[-num_levels:])


def _encoder_groups(config: DetectorConfig) -> list[tuple[int, int, int]]:
    """(first level, last level, calls) of each group of queries."""
    encoder, levels = config.encoder, config.neck.num_levels
    if encoder.update == "full":
        return [(0, levels, encoder.num_layers)]
    first_high, updates = levels - encoder.num_high_levels, encoder.num_high_layers
    if encoder.update == "joint":
        return [(first_high, levels, (updates - 1) * encoder.num_blocks), (0, levels, encoder.num_blocks)]
    low_updates = encoder.num_blocks if encoder.low_level_update else 0
    return [(first_high, levels, updates * encoder.num_blocks), (0, first_high, low_updates)]
