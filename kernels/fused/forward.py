"""The forward kernel: sample, score, softmax and weighted sum in one pass over the levels.

    s_k = logit_k, or q . k_k / sqrt(D)        out = sum_k exp(s_k) v_k / sum_k exp(s_k)

k counts the L * P samples of a query head. Given logits are normalised first, and the attention weights are multiplied
into the bilinear ones. Other scores are known only when their samples are read: the softmax is online, with a running
maximum, sum and weighted sum, up to four points at a time. With shared keys k_k = v_k, and one gather serves both.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.sampling import (
    add_pixels,
    axis_weights,
    level_of,
    locations,
    of_point,
    pixel_weights,
    query_rows,
    read_pixels,
    weighted_sample,
)
from litedetr.kernels.fused.vectors import (
    added,
    as_words,
    dot,
    load_vectors,
    scaled,
    store_vectors,
    tile_mask,
    zero_vectors,
)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax_of_logits(
    logits_ptr, index, exists, SAMPLES: tl.constexpr, BLOCK: tl.constexpr, LOWEST: tl.constexpr, REAL: tl.constexpr
):
    """Of every row: the largest of its logits, and the sum of exp(logit - largest).

    logits_ptr + index (rows,): the first of a row's SAMPLES logits. BLOCK: how many are loaded at a time.
    """
    # the lowest number and not -inf, since -inf - -inf is NaN
    peak, total = tl.full(index.shape, LOWEST, REAL), tl.zeros(index.shape, REAL)
    for start in range(0, SAMPLES, BLOCK):
        sample = start + tl.arange(0, BLOCK)[None, :]
        mask = exists[:, None] & (sample < SAMPLES)
        logits = tl.load(logits_ptr + index[:, None] + sample, mask, float("-inf")).to(REAL)
        # what was added up so far shrinks to the new maximum
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(logits - new_peak[:, None]), 1)
        peak = new_peak
    return peak, total


@triton.jit
def online_softmax(peak, total, scores, num_points):
    """Join scores in base 2 to the running maximum and sum: also returns what older terms shrink by, and the new terms.

    Scores from `num_points` on are those of no point.
    """
    new_peak, joined, terms = peak, (), ()
    for point in tl.static_range(len(scores)):
        joined += (tl.where(point < num_points, scores[point], float("-inf")),)
        new_peak = tl.maximum(new_peak, joined[point])
    # one update of the maximum and the sum for all the points of a step
    shrink = tl.exp2(peak - new_peak)
    total *= shrink
    for point in tl.static_range(len(scores)):
        terms += (tl.exp2(joined[point] - new_peak),)
        total += terms[point]
    return new_peak, total, shrink[:, None], terms


@triton.jit
def forward_kernel(
    query_ptr, key_ptr, value_ptr, logits_ptr, reference_ptr, offsets_ptr, levels_ptr, valid_ptr, order_ptr,
    out_ptr, log_sum_exp_ptr, num_queries, num_tokens,
    SCORE: tl.constexpr, SAMPLING: tl.constexpr, BOXES: tl.constexpr, PADDED: tl.constexpr, ORDERED: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_POINTS: tl.constexpr, BLOCK_WORDS: tl.constexpr, BLOCK_LOGITS: tl.constexpr,
    TILES: tl.constexpr, PACKED: tl.constexpr,
    INDEX: tl.constexpr, REAL: tl.constexpr, SCALE: tl.constexpr, LOWEST: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp. Grid: (blocks of BLOCK_QUERIES queries, heads, images).

    Pointers are to the first number of a contiguous tensor:

        query        (B, Q, M, D)        None if logits are given
        key          (B, S, M, D)        None if logits are given or the values are the keys
        value        (B, S, M, D)
        logits       (B, Q, M, L * P)    None if the scores are dot products
        reference    (B, Q, L, 2 or 4)   points or boxes, relative to the level
        offsets      (B, Q, M, L, P, 2)  (x, y)
        levels       (L, 3)              int32: height, width, first token
        valid        (B, L, 2)           integers: height and width without padding; None if not PADDED
        order        (slots,)            int32: the queries in the order of `tile_order`; None if not ORDERED
        out          (B, Q, M, D)        written, in the dtype of value
        log_sum_exp  (B, Q, M)           written, in REAL
    """
    SAMPLES: tl.constexpr = LEVELS * POINTS
    CHUNKS: tl.constexpr = (POINTS + BLOCK_POINTS - 1) // BLOCK_POINTS
    WORDS: tl.constexpr = CHANNELS // TILES  # of a tile
    HEAD_WORDS: tl.constexpr = WORDS if PACKED != "" else CHANNELS  # in memory, a 32-bit word or a channel each
    # where the program's queries and its table begin: 64-bit addresses, once a program; tiles add narrower distances
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first, query, exists = query_rows(order_ptr, num_queries, ORDERED, BLOCK_QUERIES, INDEX)
    first_row, row = first * HEADS + head, query * HEADS  # query heads, of (B, Q, M)
    table_start = (image * num_tokens * HEADS + head) * HEAD_WORDS  # the image's and head's, of a table (B, S, M, D)
    reference_ptr += first * (LEVELS * (4 if BOXES else 2))
    offsets_ptr += first_row * (SAMPLES * 2)

    # before the loop: the softmax of given logits, or the queries, which stay in registers
    word = tl.arange(0, BLOCK_WORDS)[None, :]
    weighted = zero_vectors(BLOCK_QUERIES, BLOCK_WORDS, TILES, REAL)
    if SCORE == "deformable":
        logits_ptr += first_row * SAMPLES
        peak, total = softmax_of_logits(logits_ptr, row * SAMPLES, exists, SAMPLES, BLOCK_LOGITS, LOWEST, REAL)
        share = (1.0 / total)[:, None]
    else:
        q = as_words(query_ptr, PACKED) + first_row * HEAD_WORDS + (row[:, None] * HEAD_WORDS + word)
        q = load_vectors(q, tile_mask(exists[:, None], word, WORDS), WORDS, TILES, PACKED)
        q = scaled(q, SCALE * LOG2_E)  # exp2 is one instruction, exp two
        peak, total = tl.full((BLOCK_QUERIES,), LOWEST, REAL), tl.zeros((BLOCK_QUERIES,), REAL)

    # a step takes up to BLOCK_POINTS points of a level
    for step in range(LEVELS * CHUNKS):
        level, first_point = step // CHUNKS, step % CHUNKS * BLOCK_POINTS
        size, valid, first_token = level_of(levels_ptr, valid_ptr, level, LEVELS, PADDED)
        # tiles (rows, points): where the samples lie
        point = first_point + tl.arange(0, BLOCK_POINTS)[None, :]
        mask, index = exists[:, None] & (point < POINTS), row[:, None] * SAMPLES + (level * POINTS + point)
        reference = reference_ptr + (query[:, None] * LEVELS + level) * (4 if BOXES else 2)
        location, _, _ = locations(
            reference, offsets_ptr, index, exists[:, None], mask, size, POINTS, SAMPLING, BOXES, REAL
        )
        column, along_x = axis_weights(location[0], size[1], valid[1], 0.0)
        line, along_y = axis_weights(location[1], size[0], valid[0], 0.0)
        samples = (first_token + line * size[1] + column,) + pixel_weights(along_x, along_y, SAMPLING)
        if SCORE == "deformable":  # one multiplication a pixel, and none a channel
            logits = tl.load(logits_ptr + index, mask, float("-inf")).to(REAL)
            samples = weighted_sample(samples, tl.exp(logits - peak[:, None]) * share)
        # tiles (rows, words): what lies there
        strides = HEADS * HEAD_WORDS, size[1].to(INDEX) * (HEADS * HEAD_WORDS)
        values = (as_words(value_ptr, PACKED) + table_start,) + strides
        if SCORE == "deformable":
            for i in tl.static_range(BLOCK_POINTS):  # weights are known: pixels are added as they come
                sample = of_point(samples, i)
                pixels = read_pixels(values, sample, WORDS, BLOCK_WORDS, TILES, PACKED)
                weighted = add_pixels(weighted, pixels, sample)
        else:
            keys = (as_words(key_ptr, PACKED) + table_start,) + strides if SCORE == "key_aware" else values
            # the samples of all points of the step are held, until their scores are known
            vectors, scores = (), ()
            for i in tl.static_range(BLOCK_POINTS):
                sample = of_point(samples, i)
                pixels = read_pixels(keys, sample, WORDS, BLOCK_WORDS, TILES, PACKED)
                vectors += (add_pixels((), pixels, sample),)
                scores += (dot(q, vectors[i]),)
            peak, total, shrink, p = online_softmax(peak, total, scores, POINTS - first_point)
            weighted = scaled(weighted, shrink)
            for i in tl.static_range(BLOCK_POINTS):
                if SCORE == "key_aware_shared":
                    weighted = added(weighted, vectors[i], p[i][:, None])
                else:  # values are read only now, so that keys need no registers any more
                    sample = weighted_sample(of_point(samples, i), p[i])
                    pixels = read_pixels(values, sample, WORDS, BLOCK_WORDS, TILES, PACKED)
                    weighted = add_pixels(weighted, pixels, sample)

    # deformable: the weights were divided by their sum before the loop
    if SCORE == "deformable":
        log_sum_exp = peak + tl.log(total)
    else:  # scores were in base 2
        weighted = scaled(weighted, (1.0 / total)[:, None])
        log_sum_exp = (peak + tl.log2(total)) / LOG2_E
    store_vectors(out_ptr + first_row * CHANNELS, weighted, row * HEAD_WORDS, exists, WORDS, PACKED)
    tl.store(log_sum_exp_ptr + first_row + row, log_sum_exp, exists)
