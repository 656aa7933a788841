"""The forward kernel: sample, score, softmax and weighted sum in one pass over the levels.

    s_k = logit_k, or q . k_k / sqrt(D)        out = sum_k exp(s_k) v_k / sum_k exp(s_k)

k counts the L * P samples of a query head. Every row (one point of one query) keeps a running maximum, sum and weighted
sum over the levels; the rows of a query are merged at the end. With shared keys k_k = v_k, and one gather serves both.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.sampling import (
    cell_of,
    level_of,
    query_heads,
    sample,
    sampling_location,
    tile_mask,
    valid_size,
)


@triton.jit
def forward_kernel(
    query_ptr, key_ptr, value_ptr, logits_ptr, reference_ptr, offsets_ptr, levels_ptr, valid_ptr, order_ptr,
    out_ptr, log_sum_exp_ptr, num_queries, num_tokens,
    SCORE: tl.constexpr, BOXES: tl.constexpr, PADDED: tl.constexpr, ORDERED: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_POINTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    INDEX: tl.constexpr, REAL: tl.constexpr, SCALE: tl.constexpr, LOWEST: tl.constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    line = tl.arange(0, BLOCK_QUERIES * BLOCK_POINTS)
    point = line % BLOCK_POINTS
    index, is_query = query_heads(order_ptr, num_queries, line // BLOCK_POINTS, ORDERED, HEADS, BLOCK_QUERIES)
    exists = is_query & (point < POINTS)
    channel = tl.arange(0, BLOCK_CHANNELS)
    table = image * num_tokens * (HEADS * CHANNELS) + head * CHANNELS

    if SCORE != "deformable":
        mask = tile_mask(exists, channel, CHANNELS)
        q = tl.load(query_ptr + index[:, None] * CHANNELS + channel[None, :], mask, 0.0).to(REAL) * SCALE
    peak = tl.full((BLOCK_QUERIES * BLOCK_POINTS,), LOWEST, REAL)
    total = tl.zeros((BLOCK_QUERIES * BLOCK_POINTS,), REAL)
    weighted = tl.zeros((BLOCK_QUERIES * BLOCK_POINTS, BLOCK_CHANNELS), REAL)

    for level in range(LEVELS):
        height, width, first_token, _ = level_of(levels_ptr, level)
        valid_height, valid_width = valid_size(valid_ptr, level, height, width, image, LEVELS, PADDED)
        x, y, _, _, _, _ = sampling_location(
            reference_ptr, offsets_ptr, index, level, point, height, width, exists, HEADS, LEVELS, POINTS, BOXES, REAL
        )
        row, fraction_y = cell_of(y, height)
        column, fraction_x = cell_of(x, width)
        v = sample(
            value_ptr + table, row, column, fraction_x, fraction_y,
            first_token, valid_height, valid_width, width, exists, channel,
            HEADS, CHANNELS, INDEX, REAL,
        )  # fmt: skip
        if SCORE == "deformable":
            score = tl.load(logits_ptr + (index * LEVELS + level) * POINTS + point, exists, 0.0).to(REAL)
        elif SCORE == "key_aware_shared":
            score = tl.sum(q * v, 1)
        else:
            k = sample(
                key_ptr + table, row, column, fraction_x, fraction_y,
                first_token, valid_height, valid_width, width, exists, channel,
                HEADS, CHANNELS, INDEX, REAL,
            )  # fmt: skip
            score = tl.sum(q * k, 1)
        score = tl.where(point < POINTS, score, LOWEST)
        new_peak = tl.maximum(peak, score)
        shrink, p = tl.exp(peak - new_peak), tl.exp(score - new_peak)
        if BLOCK_POINTS != POINTS:  # a row of no point counts for nothing, even where all scores are the lowest
            p = tl.where(point < POINTS, p, 0.0)
        total = total * shrink + p
        weighted = weighted * shrink[:, None] + p[:, None] * v
        peak = new_peak

    # merge the rows of each query
    peak = tl.reshape(peak, (BLOCK_QUERIES, BLOCK_POINTS))
    highest = tl.max(peak, 1)
    share = tl.exp(peak - highest[:, None])
    total = tl.sum(tl.reshape(total, (BLOCK_QUERIES, BLOCK_POINTS)) * share, 1)
    share = tl.reshape(share, (BLOCK_QUERIES * BLOCK_POINTS,))
    weighted = tl.reshape(weighted * share[:, None], (BLOCK_QUERIES, BLOCK_POINTS, BLOCK_CHANNELS))
    out = tl.sum(weighted, 1) / total[:, None]
    block = tl.arange(0, BLOCK_QUERIES)
    index, is_query = query_heads(order_ptr, num_queries, block, ORDERED, HEADS, BLOCK_QUERIES)
    mask = tile_mask(is_query, channel, CHANNELS)
    tl.store(out_ptr + index[:, None] * CHANNELS + channel[None, :], out, mask)
    tl.store(log_sum_exp_ptr + index, highest + tl.log(total), is_query)
