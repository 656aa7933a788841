"""What every kernel shares: which rows a program works on, where they sample, and the pixels around each location.

A program takes a block of queries of one head. Each query has a row for each of its points; all rows sample one level
at a time, so a tile is (rows, channels).

Legend: B images, S tokens, Q queries, M heads, D channels a head, L levels, P points.
"""

import triton
import triton.language as tl

LEVEL_FIELDS = tl.constexpr(4)  # of the level table: height, width, first token, first cell


@triton.jit
def query_block(order_ptr, num_queries, ORDERED: tl.constexpr, BLOCK_QUERIES: tl.constexpr):
    """The program's queries (BLOCK_QUERIES,), and which of them exist."""
    slot = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    if ORDERED:  # neighbours on the query grid, padded with -1 to whole blocks
        query = tl.load(order_ptr + slot)
        return query, query >= 0
    return slot, slot < num_queries


@triton.jit
def rows_of(x, LENGTH: tl.constexpr, TIMES: tl.constexpr):
    """(LENGTH,) -> (LENGTH * TIMES,): each element so many times in a row."""
    return tl.reshape(tl.broadcast_to(x[:, None], (LENGTH, TIMES)), (LENGTH * TIMES,))


@triton.jit
def tile_mask(exists, channel, CHANNELS: tl.constexpr):
    """Which elements of a tile (rows, channels) exist."""
    mask = exists[:, None]
    if channel.shape[0] != CHANNELS:  # a mask along the channels costs predicate registers
        mask = mask & (channel < CHANNELS)[None, :]
    return mask


@triton.jit
def level_of(levels_ptr, level):
    """Height, width, first token and first cell of a level."""
    row = levels_ptr + level * LEVEL_FIELDS
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)


@triton.jit
def valid_size(valid_ptr, level, height, width, image, LEVELS: tl.constexpr, PADDED: tl.constexpr):
    """The part of a level, (height, width), that is not padding."""
    if PADDED:
        pair = valid_ptr + (image * LEVELS + level) * 2
        return tl.load(pair).to(tl.int32), tl.load(pair + 1).to(tl.int32)
    return height, width


@triton.jit
def sampling_location(
    reference_ptr, offsets_ptr, index, level, point, height, width, exists,
    HEADS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, BOXES: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """x, y in pixels (first pixel's centre at 0), the offsets, and dx / d offset, dy / d offset.

    `index` is (b * Q + q) * M + m.
    """
    offset = offsets_ptr + ((index * LEVELS + level) * POINTS + point) * 2
    offset_x = tl.load(offset, exists, 0.0).to(REAL)
    offset_y = tl.load(offset + 1, exists, 0.0).to(REAL)
    reference = reference_ptr + ((index // HEADS) * LEVELS + level) * (4 if BOXES else 2)
    x = tl.load(reference, exists, 0.0).to(REAL) * width - 0.5
    y = tl.load(reference + 1, exists, 0.0).to(REAL) * height - 0.5
    if BOXES:
        step_x = tl.load(reference + 2, exists, 0.0).to(REAL) * (width.to(REAL) * (0.5 / POINTS))
        step_y = tl.load(reference + 3, exists, 0.0).to(REAL) * (height.to(REAL) * (0.5 / POINTS))
    else:
        step_x = tl.full(x.shape, 1.0, REAL)
        step_y = step_x
    x, y = held(x + offset_x * step_x, width), held(y + offset_y * step_y, height)
    return x, y, offset_x, offset_y, step_x, step_y


@triton.jit
def held(position, size):
    """Just outside, where it was far outside; infinity has no fraction. What is no number remains none."""
    return tl.where(position < -1, -2.0, tl.where(position > size, size + 1.0, position))


@triton.jit
def corner(x, y, RIGHT: tl.constexpr, BELOW: tl.constexpr, valid_height, valid_width, width, exists):
    """One of the four pixels around (x, y): its index in the level, whether it is inside, its weights along x and y.

    A location that is no number or far away is outside, and is never turned into an index.
    """
    left, top = tl.floor(x), tl.floor(y)
    column, row = left + RIGHT, top + BELOW
    inside = exists & (column >= 0) & (column < valid_width) & (row >= 0) & (row < valid_height)
    pixel = tl.where(inside, row, 0.0).to(tl.int32) * width + tl.where(inside, column, 0.0).to(tl.int32)
    weight_x = x - left if RIGHT else 1.0 - (x - left)
    weight_y = y - top if BELOW else 1.0 - (y - top)
    return pixel, inside, weight_x, weight_y


@triton.jit
def token_offsets(pixel, first_token, channel, HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr):
    """(rows, channels) offsets from an image's and head's first element of a (B, S, M, D) table."""
    return (first_token + pixel).to(INDEX)[:, None] * (HEADS * CHANNELS) + channel[None, :]


@triton.jit
def sample(
    table_ptr, x, y, first_token, valid_height, valid_width, width, exists, channel,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Bilinear samples (rows, channels) of a table, zero outside."""
    total = tl.zeros((x.shape[0], channel.shape[0]), REAL)
    for BELOW in tl.static_range(2):
        for RIGHT in tl.static_range(2):
            pixel, inside, weight_x, weight_y = corner(x, y, RIGHT, BELOW, valid_height, valid_width, width, exists)
            offsets = token_offsets(pixel, first_token, channel, HEADS, CHANNELS, INDEX)
            mask = tile_mask(inside, channel, CHANNELS)
            total += tl.load(table_ptr + offsets, mask, 0.0).to(REAL) * (weight_x * weight_y)[:, None]
    return total
