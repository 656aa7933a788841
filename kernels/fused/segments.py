"""The gradient of values and keys without atomics: every pixel adds up the samples around it, in a fixed order.

The samples lie sorted by cell, the square between four pixels that contains them. A pixel is a corner of four cells;
it reads their samples one run after the other, BLOCK_SAMPLES at a time, and is written once, in its final precision.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.sampling import level_of, tile_mask, valid_size


@triton.jit
def find_level(levels_ptr, token, LEVELS: tl.constexpr):
    """The level of each token (tokens,)."""
    found = tl.zeros(token.shape, tl.int32)
    for level in range(LEVELS):
        _, _, first_token, _ = level_of(levels_ptr, level)
        found = tl.where(token >= first_token, level, found)  # an empty level loses to the next one
    return found


@triton.jit
def repeat(x, LENGTH: tl.constexpr, TIMES: tl.constexpr):
    """(LENGTH,) -> (LENGTH * TIMES,): each element so many times in a row."""
    return tl.reshape(tl.broadcast_to(x[:, None], (LENGTH, TIMES)), (LENGTH * TIMES,))


@triton.jit
def segment_kernel(
    query_ptr, levels_ptr, valid_ptr, grad_out_ptr, p_ptr, d_score_ptr, fraction_ptr, order_ptr, start_ptr,
    grad_key_ptr, grad_value_ptr, num_tokens, num_cells,
    SCORE: tl.constexpr, PADDED: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, REAL: tl.constexpr,
    SCALE: tl.constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    is_token = token < num_tokens
    level = find_level(levels_ptr, token, LEVELS)
    height, width, first_token, first_cell = level_of(levels_ptr, level)
    valid_height, valid_width = valid_size(valid_ptr, level, height, width, image, LEVELS, PADDED)
    row, column = (token - first_token) // tl.maximum(width, 1), (token - first_token) % tl.maximum(width, 1)
    is_valid = is_token & (row < valid_height) & (column < valid_width)

    channel = tl.arange(0, BLOCK_CHANNELS)
    lane = tl.arange(0, BLOCK_TOKENS * BLOCK_SAMPLES) % BLOCK_SAMPLES
    d_value = tl.zeros((BLOCK_TOKENS * BLOCK_SAMPLES, BLOCK_CHANNELS), REAL)
    d_key = d_value
    for BELOW in tl.static_range(2):
        for RIGHT in tl.static_range(2):
            cell = first_cell + (row + 1 - BELOW) * (width + 1) + column + 1 - RIGHT
            cell = (image * HEADS + head) * num_cells + cell
            begin = tl.load(start_ptr + cell, is_valid, 0)
            length = tl.load(start_ptr + cell + 1, is_valid, 0) - begin
            sample = repeat(begin, BLOCK_TOKENS, BLOCK_SAMPLES) + lane
            end = repeat(begin + length, BLOCK_TOKENS, BLOCK_SAMPLES)
            longest = tl.max(length, 0)
            done = longest * 0
            while done < longest:
                exists = sample < end
                slot = tl.load(order_ptr + sample, exists, 0)
                fraction_x = tl.load(fraction_ptr + slot * 2, exists, 0.0)
                fraction_y = tl.load(fraction_ptr + slot * 2 + 1, exists, 0.0)
                weight_x = fraction_x if RIGHT else 1.0 - fraction_x
                weight_y = fraction_y if BELOW else 1.0 - fraction_y
                weight = tl.where(exists, weight_x * weight_y, 0.0)
                vector = (slot // (LEVELS * POINTS))[:, None] * CHANNELS + channel[None, :]
                mask = tile_mask(exists, channel, CHANNELS)
                p = tl.load(p_ptr + slot, exists, 0.0)
                d_value += (weight * p)[:, None] * tl.load(grad_out_ptr + vector, mask, 0.0).to(REAL)
                if SCORE != "deformable":
                    d_score = tl.load(d_score_ptr + slot, exists, 0.0)
                    from_score = (weight * d_score * SCALE)[:, None] * tl.load(query_ptr + vector, mask, 0.0).to(REAL)
                    if SCORE == "key_aware_shared":
                        d_value += from_score
                    else:
                        d_key += from_score
                sample += BLOCK_SAMPLES
                done += BLOCK_SAMPLES

    pixel = (image * num_tokens + token) * HEADS + head
    pixel = pixel[:, None] * CHANNELS + channel[None, :]
    mask = tile_mask(is_token, channel, CHANNELS)
    tl.store(
        grad_value_ptr + pixel, tl.sum(tl.reshape(d_value, (BLOCK_TOKENS, BLOCK_SAMPLES, BLOCK_CHANNELS)), 1), mask
    )
    if SCORE == "key_aware":
        tl.store(
            grad_key_ptr + pixel, tl.sum(tl.reshape(d_key, (BLOCK_TOKENS, BLOCK_SAMPLES, BLOCK_CHANNELS)), 1), mask
        )
