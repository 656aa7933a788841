"""The backward kernel: all gradients of a block of queries. It samples again; of the forward pass it takes only the
output and the log-sum-exp.

With p_k = exp(s_k - log_sum_exp), dO the gradient of the output and delta = dO . O:

    ds_k = p_k (dO . v_k - delta)     dv_k = p_k dO     dk_k = ds_k q / sqrt(D)     dq = sum_k ds_k k_k / sqrt(D)

A sample is a weighted sum of pixels, v = sum_c w_c x_c. So most of what is wanted follows from one number a pixel, its
dot product with a vector g of the row:

    g . v = sum_c w_c (g . x_c)       d(g . v) / dx = sum_c dw_c/dx (g . x_c)       and the same for y

- deformable: g = dO. The weights are multiplied by p at once.
- key_aware: g = q for the keys; then p is known, and g = dO for the values.
- key_aware_shared: p and ds come from the sample itself, and g = p dO + ds q is the gradient of the sample.

Gradients of pixels are added by relaxed atomics in full precision; or, if SCATTER is false, the samples' coefficients
are stored for kernels/fused/segments.py, which adds them in the same order on every run.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.gradients import (
    empty_tiles,
    location_slopes,
    pixel_dots,
    put_point,
    reference_gradient,
    scatter,
    store_coefficients,
    weight_of,
    weighted_sum,
)
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
    store_pairs,
    store_vectors,
    tile_mask,
    zero_vectors,
)

# Added to the weight of the second pixel of an axis if it is inside. The weight masks the load, and the gradient of the
# location needs the pixel even if it weighs nothing. Rounding drops it from a sum with 1, in double precision too.
LEAST = tl.constexpr(2.0**-60)


@triton.jit
def backward_kernel(
    query_ptr, key_ptr, value_ptr, logits_ptr, reference_ptr, offsets_ptr, levels_ptr, valid_ptr, order_ptr,
    out_ptr, log_sum_exp_ptr, grad_out_ptr,
    grad_query_ptr, grad_key_ptr, grad_value_ptr, grad_logits_ptr, grad_reference_ptr, grad_offsets_ptr,
    coefficients_ptr, patch_ptr, patch_levels_ptr, num_quads, num_queries, num_tokens,
    SCORE: tl.constexpr, SAMPLING: tl.constexpr, BOXES: tl.constexpr, PADDED: tl.constexpr, ORDERED: tl.constexpr,
    SCATTER: tl.constexpr, REFERENCE_GRAD: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_POINTS: tl.constexpr, BLOCK_WORDS: tl.constexpr,
    TILES: tl.constexpr, PACKED: tl.constexpr, INDEX: tl.constexpr, REAL: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """All gradients; with SCATTER false the coefficients of the samples in place of those of values and keys.

    Grid and pointers as of `forward_kernel`; further ones, None where the input is:

        out             (B, Q, M, D)            of the forward pass, as log_sum_exp (B, Q, M)
        grad_out        (B, Q, M, D)            in the dtype of value, as out
        grad_query      (B, Q, M, D)            written, in the dtype of query
        grad_key        (B, S, M, D)            added to, in REAL, if SCATTER: of halves even channels before odd ones
        grad_value      (B, S, M, D)            as grad_key
        grad_logits     (B, Q, M, L * P)        written, in the dtype of logits
        grad_reference  (B, Q, M, L, 2 or 4)    written, in REAL, a part for each head; None if not REFERENCE_GRAD
        grad_offsets    (B, Q, M, L, P, 2)      written, in the dtype of offsets
        coefficients    (B, Q, M, L, P, 4)      written, in REAL, if not SCATTER: p, d_score, x, y
        patch           (B, Q, M, L, P)         written, integers, if not SCATTER: `Samples.patch`
        patch_levels    (L, 3)                  int32, if not SCATTER: `Patches.levels`
    """
    SAMPLES: tl.constexpr = LEVELS * POINTS
    CHUNKS: tl.constexpr = (POINTS + BLOCK_POINTS - 1) // BLOCK_POINTS
    WORDS: tl.constexpr = CHANNELS // TILES  # of a tile
    HEAD_WORDS: tl.constexpr = WORDS if PACKED != "" else CHANNELS  # in memory, a 32-bit word or a channel each
    REFERENCE: tl.constexpr = 4 if BOXES else 2
    # where the program's queries and its tables begin: 64-bit addresses, once a program; tiles add narrower distances
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first, query, exists = query_rows(order_ptr, num_queries, ORDERED, BLOCK_QUERIES, INDEX)
    first_row, row = first * HEADS + head, query * HEADS  # query heads, of (B, Q, M)
    table_start = image * num_tokens * HEADS + head  # the image's and head's, of a table (B, S, M, D)
    reference_ptr += first * (LEVELS * REFERENCE)
    offsets_ptr += first_row * (SAMPLES * 2)
    grad_offsets_ptr += first_row * (SAMPLES * 2)
    if SCORE == "deformable":
        logits_ptr += first_row * SAMPLES
        grad_logits_ptr += first_row * SAMPLES

    # vectors of the queries: dO and q stay in registers for all samples, O is needed for delta only
    word = tl.arange(0, BLOCK_WORDS)[None, :]
    first_word, vector = first_row * HEAD_WORDS, row[:, None] * HEAD_WORDS + word
    is_vector = tile_mask(exists[:, None], word, WORDS)
    d_out = load_vectors(as_words(grad_out_ptr, PACKED) + first_word + vector, is_vector, WORDS, TILES, PACKED)
    out = load_vectors(as_words(out_ptr, PACKED) + first_word + vector, is_vector, WORDS, TILES, PACKED)
    delta = dot(d_out, out)
    # infinity for rows that do not exist: their samples weigh exp(-inf) = 0
    log_sum_exp = tl.load(log_sum_exp_ptr + first_row + row, exists, float("inf"))
    if SCORE != "deformable":
        q = load_vectors(as_words(query_ptr, PACKED) + first_word + vector, is_vector, WORDS, TILES, PACKED)
        q = scaled(q, SCALE)
        d_query = zero_vectors(BLOCK_QUERIES, BLOCK_WORDS, TILES, REAL)
    nothing = tl.zeros((BLOCK_QUERIES,), REAL)
    d_reference = (nothing, nothing, nothing, nothing) if BOXES else (nothing, nothing)

    for step in range(LEVELS * CHUNKS):
        level, first_point = step // CHUNKS, step % CHUNKS * BLOCK_POINTS
        size, valid, first_token = level_of(levels_ptr, valid_ptr, level, LEVELS, PADDED)
        # always 0, which the compiler cannot know: it computes indices inside the loop and holds none in registers
        zero = size[0] >> 31
        # tiles (rows, points): where the samples lie
        point = first_point + tl.arange(0, BLOCK_POINTS)[None, :]
        mask, index = exists[:, None] & (point < POINTS), row[:, None] * SAMPLES + (level * POINTS + point + zero)
        reference = reference_ptr + (query[:, None] * LEVELS + level) * REFERENCE
        location, offsets, units = locations(
            reference, offsets_ptr, index, exists[:, None], mask, size, POINTS, SAMPLING, BOXES, REAL
        )
        x, y = location
        column, along_x = axis_weights(x, size[1], valid[1], LEAST)
        line, along_y = axis_weights(y, size[0], valid[0], LEAST)
        samples = (first_token + line * size[1] + column,) + pixel_weights(along_x, along_y, SAMPLING)
        if SCORE == "deformable":
            logits = tl.load(logits_ptr + index, mask, float("-inf")).to(REAL)
            p = tl.exp(logits - log_sum_exp[:, None])
            p = tl.where(p == p, tl.minimum(p, 1.0), float("inf"))  # a NaN weight would mask its pixels out
            samples = weighted_sample(samples, p)
        # of each sample: g . pixel of its pixels; key-aware: p and d_score too
        found = empty_tiles(len(samples) + 1, BLOCK_QUERIES, BLOCK_POINTS, REAL)
        # tiles (rows, words): what lies there
        strides = HEADS * HEAD_WORDS, size[1].to(INDEX) * (HEADS * HEAD_WORDS)
        grad_strides = HEADS * CHANNELS, size[1].to(INDEX) * (HEADS * CHANNELS)
        values = (as_words(value_ptr, PACKED) + table_start * HEAD_WORDS,) + strides
        if SCATTER:
            grad_values = (grad_value_ptr + table_start * CHANNELS,) + grad_strides
        for i in tl.static_range(BLOCK_POINTS):
            sample = of_point(samples, i + zero)
            if SCORE == "deformable":  # p is within the weights of the pixels
                numbers = pixel_dots(d_out, read_pixels(values, sample, WORDS, BLOCK_WORDS, TILES, PACKED))
                if SCATTER:
                    scatter(grad_values, sample, sample, d_out, WORDS)
            elif SCORE == "key_aware_shared":
                pixels = read_pixels(values, sample, WORDS, BLOCK_WORDS, TILES, PACKED)
                # the pixels stay in registers: p and ds are known only when the whole sample is
                v = add_pixels((), pixels, sample)
                p = weight_of(dot(q, v), log_sum_exp)
                d_score = p * (dot(d_out, v) - delta)
                d_query = added(d_query, v, d_score[:, None])
                d_sample = added(scaled(q, d_score[:, None]), d_out, p[:, None])
                numbers = pixel_dots(d_sample, pixels) + (p, d_score)
                if SCATTER:
                    scatter(grad_values, sample, sample, d_sample, WORDS)
            else:
                keys = (as_words(key_ptr, PACKED) + table_start * HEAD_WORDS,) + strides
                pixels = read_pixels(keys, sample, WORDS, BLOCK_WORDS, TILES, PACKED)
                # of the key's pixels only the sample and the dot products are kept: registers are free for the values
                key_dots, k = pixel_dots(q, pixels), add_pixels((), pixels, sample)
                p = weight_of(weighted_sum(sample, key_dots), log_sum_exp)
                of_value = weighted_sample(sample, p)  # its masks depend on p, so values are loaded after the keys
                value_dots = pixel_dots(d_out, read_pixels(values, of_value, WORDS, BLOCK_WORDS, TILES, PACKED))
                d_score = weighted_sum(of_value, value_dots) - p * delta
                d_query = added(d_query, k, d_score[:, None])
                numbers = added(scaled(value_dots, p), key_dots, d_score) + (p, d_score)
                if SCATTER:
                    grad_keys = (grad_key_ptr + table_start * CHANNELS,) + grad_strides
                    scatter(grad_values, sample, of_value, d_out, WORDS)
                    scatter(grad_keys, sample, weighted_sample(sample, d_score), q, WORDS)
            found = put_point(found, numbers, i + zero)
        # tiles (rows, points) again: gradients of the samples' numbers
        if SCORE == "deformable":
            d_score = weighted_sum(samples, found) - p * delta[:, None]
            tl.store(grad_logits_ptr + index, d_score, mask)
        else:
            p, d_score = found[len(samples) - 1], found[len(samples)]
        # gradients of the location, in pixels, and through it of offsets and reference
        if SAMPLING == "nearest":
            d_x, d_y = tl.zeros_like(x), tl.zeros_like(y)
            d_offset_x, d_offset_y = d_x, d_y
        else:
            d_x, d_y = location_slopes(found, along_x, along_y)
            if SCORE == "deformable":  # along_x and along_y are without p
                d_x, d_y = d_x * p, d_y * p
            d_offset_x, d_offset_y = d_x * units[0], d_y * units[1]
        store_pairs(grad_offsets_ptr, index, d_offset_x, d_offset_y, mask)
        if REFERENCE_GRAD:
            is_first = first_point == 0
            d_reference = reference_gradient(d_reference, (d_x, d_y), offsets, size, is_first, POINTS, BOXES)
            # of several groups of points of a level the last one writes the whole sum
            place = grad_reference_ptr + ((first_row + row) * LEVELS + level) * REFERENCE
            for number in tl.static_range(REFERENCE):
                tl.store(place + number, d_reference[number], exists)
        if not SCATTER:
            # NaN if dO is not finite, so that segments.py keeps the sample out of its products
            p += dot(d_out, zero_vectors(BLOCK_QUERIES, BLOCK_WORDS, TILES, REAL))[:, None]
            store_coefficients(
                coefficients_ptr + first_row * (SAMPLES * 4), patch_ptr + first_row * SAMPLES, patch_levels_ptr,
                index, mask, (p, d_score, x, y), (level, column, line), head, num_quads, valid,
            )  # fmt: skip

    if SCORE != "deformable":  # q was scaled before the loop, the keys were not
        d_query = scaled(d_query, SCALE)
        store_vectors(grad_query_ptr + first_row * CHANNELS, d_query, row * HEAD_WORDS, exists, WORDS, PACKED)
