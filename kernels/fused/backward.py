"""The backward kernel: all gradients of a block of queries, from the output and the log-sum-exp alone.

With p_k = exp(s_k - log_sum_exp), dO the gradient of the output and delta = dO . O:

    ds_k = p_k (dO . v_k - delta)     dv_k = p_k dO     dk_k = ds_k q / sqrt(D)     dq = sum_k ds_k k_k / sqrt(D)

A sample is the weighted sum of four pixels, so two numbers of each pixel are enough, its dot products with dO and with
q: they give s_k and dO . v_k and, by the slopes of the weights, the gradient of the location. With shared keys a pixel
receives weight * (dv_k + dk_k) at once.

The pixels' gradients are added by relaxed atomics in full precision; or, if SCATTER is false, the samples' coefficients
are stored for kernels/fused/segments.py, which adds them in the same order on every run.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.sampling import (
    cell_of,
    corner,
    level_of,
    load_pixel,
    pixel_pointers,
    query_heads,
    sampling_location,
    step_to,
    tile_mask,
    valid_size,
)


@triton.jit
def read_sample(
    table_ptr, d_out, q, row, column, fraction_x, fraction_y,
    first_token, valid_height, valid_width, width, exists, channel,
    WITH_OUT: tl.constexpr, WITH_QUERY: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """A sample (rows, channels); its dot products with dO and with q, each with the derivatives by x and y."""
    pixel = pixel_pointers(table_ptr, first_token, row, column, width, channel, HEADS, CHANNELS, INDEX)
    total = tl.zeros((row.shape[0], channel.shape[0]), REAL)
    out_dot = tl.zeros((row.shape[0],), REAL)
    out_x, out_y, query_dot, query_x, query_y = out_dot, out_dot, out_dot, out_dot, out_dot
    for BELOW in tl.static_range(2):
        for RIGHT in tl.static_range(2):
            pixels, weight_x, weight_y = load_pixel(
                pixel, row, column, fraction_x, fraction_y, RIGHT, BELOW,
                valid_height, valid_width, width, exists, channel, HEADS, CHANNELS, INDEX, REAL,
            )  # fmt: skip
            slope_x, slope_y = weight_y * (2 * RIGHT - 1), weight_x * (2 * BELOW - 1)
            if WITH_OUT:
                dot = tl.sum(pixels * d_out, 1)
                out_dot += weight_x * weight_y * dot
                out_x += slope_x * dot
                out_y += slope_y * dot
            if WITH_QUERY:
                total += pixels * (weight_x * weight_y)[:, None]
                dot = tl.sum(pixels * q, 1)
                query_dot += weight_x * weight_y * dot
                query_x += slope_x * dot
                query_y += slope_y * dot
    return total, out_dot, out_x, out_y, query_dot, query_x, query_y


@triton.jit
def scatter(
    grad_ptr, gradient, row, column, fraction_x, fraction_y,
    first_token, valid_height, valid_width, width, exists, channel,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Add the gradients of samples (rows, channels) to the four pixels around each."""
    pixel = pixel_pointers(grad_ptr, first_token, row, column, width, channel, HEADS, CHANNELS, INDEX)
    for BELOW in tl.static_range(2):
        for RIGHT in tl.static_range(2):
            inside, weight_x, weight_y = corner(
                row, column, fraction_x, fraction_y, RIGHT, BELOW, valid_height, valid_width, exists
            )
            step = step_to(RIGHT, BELOW, width, HEADS, CHANNELS, INDEX)
            mask = tile_mask(inside, channel, CHANNELS)
            tl.atomic_add(pixel + step, gradient * (weight_x * weight_y)[:, None], mask, sem="relaxed")


@triton.jit
def store_coefficients(
    coefficients_ptr, patch_ptr, levels_ptr, slot, p, d_score, row, column, fraction_x, fraction_y,
    head, level, num_squares, valid_height, valid_width, exists,
):  # fmt: skip
    """What segments.py needs of each sample: its patch, and p, d_score, x, y from the patch's first pixel."""
    first_square = tl.load(levels_ptr + level * 3)
    across, side = tl.load(levels_ptr + level * 3 + 1), tl.load(levels_ptr + level * 3 + 2)
    touches = (column >= -1) & (column < valid_width) & (row >= -1) & (row < valid_height)
    patch_row, patch_column = (row + 1) // side, (column + 1) // side
    square = first_square + (patch_row // 2) * across + patch_column // 2
    if patch_ptr.dtype.element_ty == tl.int64:
        head = head.to(tl.int64)
    patch = (head * num_squares + square) * 4 + (patch_row % 2) * 2 + patch_column % 2
    tl.store(patch_ptr + slot, tl.where(touches, patch, -1), exists)
    x, y = (column + 1 - patch_column * side) + fraction_x, (row + 1 - patch_row * side) + fraction_y
    numbers = tl.reshape(tl.join(tl.join(p, x), tl.join(d_score, y)), (slot.shape[0], 4))
    tl.store(coefficients_ptr + slot[:, None] * 4 + tl.arange(0, 4)[None, :], numbers, exists[:, None])


@triton.jit
def store_reference(
    grad_ptr, index, is_query, level, d_x, d_y, offset_x, offset_y, width, height,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, BOXES: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_POINTS: tl.constexpr,
):  # fmt: skip
    """The head's part of the gradient of the reference, summed over the points."""
    grad = grad_ptr + (index * LEVELS + level) * (4 if BOXES else 2)
    tl.store(grad, tl.sum(tl.reshape(d_x, (BLOCK_QUERIES, BLOCK_POINTS)), 1) * width, is_query)
    tl.store(grad + 1, tl.sum(tl.reshape(d_y, (BLOCK_QUERIES, BLOCK_POINTS)), 1) * height, is_query)
    if BOXES:
        along_x = tl.sum(tl.reshape(d_x * offset_x, (BLOCK_QUERIES, BLOCK_POINTS)), 1)
        along_y = tl.sum(tl.reshape(d_y * offset_y, (BLOCK_QUERIES, BLOCK_POINTS)), 1)
        tl.store(grad + 2, along_x * (width.to(d_x.dtype) * (0.5 / POINTS)), is_query)
        tl.store(grad + 3, along_y * (height.to(d_y.dtype) * (0.5 / POINTS)), is_query)


@triton.jit
def backward_kernel(
    query_ptr, key_ptr, value_ptr, logits_ptr, reference_ptr, offsets_ptr, levels_ptr, valid_ptr, order_ptr,
    out_ptr, log_sum_exp_ptr, grad_out_ptr,
    grad_query_ptr, grad_key_ptr, grad_value_ptr, grad_logits_ptr, grad_reference_ptr, grad_offsets_ptr,
    coefficients_ptr, patch_ptr, patch_levels_ptr, num_squares, num_queries, num_tokens,
    SCORE: tl.constexpr, BOXES: tl.constexpr, PADDED: tl.constexpr, ORDERED: tl.constexpr,
    SCATTER: tl.constexpr, REFERENCE_GRAD: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr, BLOCK_POINTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    INDEX: tl.constexpr, REAL: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    line = tl.arange(0, BLOCK_QUERIES * BLOCK_POINTS)
    point = line % BLOCK_POINTS
    index, is_query = query_heads(order_ptr, num_queries, line // BLOCK_POINTS, ORDERED, HEADS, BLOCK_QUERIES)
    exists = is_query & (point < POINTS)
    block = tl.arange(0, BLOCK_QUERIES)
    block_index, in_block = query_heads(order_ptr, num_queries, block, ORDERED, HEADS, BLOCK_QUERIES)
    channel = tl.arange(0, BLOCK_CHANNELS)
    table = image * num_tokens * (HEADS * CHANNELS) + head * CHANNELS

    mask = tile_mask(exists, channel, CHANNELS)
    element = index[:, None] * CHANNELS + channel[None, :]
    d_out = tl.load(grad_out_ptr + element, mask, 0.0).to(REAL)
    delta = tl.sum(d_out * tl.load(out_ptr + element, mask, 0.0).to(REAL), 1)
    zero = tl.sum(d_out * 0.0, 1)  # or NaN, if one is not finite: segments.py looks at p, not at dO
    log_sum_exp = tl.load(log_sum_exp_ptr + index, exists, 0.0)
    q = d_out
    if SCORE != "deformable":
        q = tl.load(query_ptr + element, mask, 0.0).to(REAL) * SCALE
        d_query = tl.zeros((BLOCK_QUERIES * BLOCK_POINTS, BLOCK_CHANNELS), REAL)

    for level in range(LEVELS):
        height, width, first_token, _ = level_of(levels_ptr, level)
        valid_height, valid_width = valid_size(valid_ptr, level, height, width, image, LEVELS, PADDED)
        x, y, offset_x, offset_y, step_x, step_y = sampling_location(
            reference_ptr, offsets_ptr, index, level, point, height, width, exists, HEADS, LEVELS, POINTS, BOXES, REAL
        )
        row, fraction_y = cell_of(y, height)
        column, fraction_x = cell_of(x, width)
        slot = (index * LEVELS + level) * POINTS + point
        k, out_dot, out_x, out_y, score, score_x, score_y = read_sample(
            value_ptr + table, d_out, q, row, column, fraction_x, fraction_y,
            first_token, valid_height, valid_width, width, exists, channel,
            True, SCORE == "key_aware_shared", HEADS, CHANNELS, INDEX, REAL,
        )  # fmt: skip
        if SCORE == "key_aware":
            k, _, _, _, score, score_x, score_y = read_sample(
                key_ptr + table, d_out, q, row, column, fraction_x, fraction_y,
                first_token, valid_height, valid_width, width, exists, channel,
                False, True, HEADS, CHANNELS, INDEX, REAL,
            )  # fmt: skip
        if SCORE == "deformable":
            score = tl.load(logits_ptr + slot, exists, 0.0).to(REAL)
        p = tl.where(exists, tl.exp(score - log_sum_exp), 0.0)
        d_score = p * (out_dot - delta)
        d_x, d_y = p * out_x + d_score * score_x, p * out_y + d_score * score_y
        tl.store(grad_offsets_ptr + slot * 2, d_x * step_x, exists)
        tl.store(grad_offsets_ptr + slot * 2 + 1, d_y * step_y, exists)
        if REFERENCE_GRAD:
            store_reference(
                grad_reference_ptr, block_index, in_block, level, d_x, d_y, offset_x, offset_y, width, height,
                LEVELS, POINTS, BOXES, BLOCK_QUERIES, BLOCK_POINTS,
            )  # fmt: skip
        if SCORE == "deformable":
            tl.store(grad_logits_ptr + slot, d_score, exists)
        else:
            d_query += d_score[:, None] * k
        if SCATTER:
            d_value = p[:, None] * d_out
            if SCORE == "key_aware_shared":
                d_value += d_score[:, None] * q
            scatter(
                grad_value_ptr + table, d_value, row, column, fraction_x, fraction_y,
                first_token, valid_height, valid_width, width, exists, channel,
                HEADS, CHANNELS, INDEX,
            )  # fmt: skip
            if SCORE == "key_aware":
                scatter(
                    grad_key_ptr + table, d_score[:, None] * q, row, column, fraction_x, fraction_y,
                    first_token, valid_height, valid_width, width, exists, channel, HEADS, CHANNELS, INDEX,
                )  # fmt: skip
        else:
            store_coefficients(
                coefficients_ptr, patch_ptr, patch_levels_ptr, slot, p + zero, d_score, row, column,
                fraction_x, fraction_y, head, level, num_squares, valid_height, valid_width, exists,
            )  # fmt: skip

    if SCORE != "deformable":
        d_query = tl.sum(tl.reshape(d_query * SCALE, (BLOCK_QUERIES, BLOCK_POINTS, BLOCK_CHANNELS)), 1)
        mask = tile_mask(in_block, channel, CHANNELS)
        tl.store(grad_query_ptr + block_index[:, None] * CHANNELS + channel[None, :], d_query, mask)
