"""What every kernel shares: which rows a program works on, where they sample, and the pixels around each location.

A program takes a block of queries of one head. Each query has a row for each of its points; all rows sample one level
at a time, so a tile is (rows, channels).

Legend: B images, S tokens, Q queries, M heads, D channels a head, L levels, P points.
"""

import triton
import triton.language as tl

LEVEL_FIELDS = tl.constexpr(4)  # of the level table: height, width, first token, first cell


@triton.jit
def query_heads(order_ptr, num_queries, place, ORDERED: tl.constexpr, HEADS: tl.constexpr, BLOCK_QUERIES: tl.constexpr):
    """Index (b * Q + q) * M + m of the program's head of the queries at some places of its block; which exist."""
    slot = tl.program_id(0) * BLOCK_QUERIES + place
    if ORDERED:  # neighbours on the query grid, padded with -1 to whole blocks
        query = tl.load(order_ptr + slot)
        exists = query >= 0
    else:
        query = slot
        exists = slot < num_queries
    return (tl.program_id(2).to(tl.int64) * num_queries + query) * HEADS + tl.program_id(1), exists


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
    """The part of a level, (height, width), that is not padding; never more than the level, whatever was given."""
    if PADDED:
        pair = valid_ptr + (image * LEVELS + level) * 2
        height = tl.maximum(tl.minimum(tl.load(pair), height), 0).to(tl.int32)
        width = tl.maximum(tl.minimum(tl.load(pair + 1), width), 0).to(tl.int32)
    return height, width


@triton.jit
def sampling_location(
    reference_ptr, offsets_ptr, index, level, point, height, width, exists,
    HEADS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, BOXES: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """x, y in pixels (first pixel's centre at 0), the offsets, and dx / d offset, dy / d offset.

    index: of `query_heads`.
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
    return x + offset_x * step_x, y + offset_y * step_y, offset_x, offset_y, step_x, step_y


@triton.jit
def cell_of(position, size):
    """The pixel before a position along one axis (int32), and the fraction of the way to the next.

    Far outside becomes just outside, since infinity has no fraction. NaN keeps NaN as its fraction, but
    gets a pixel outside.
    """
    held = tl.minimum(position, size + 1.0, propagate_nan=tl.PropagateNan.ALL)
    held = tl.maximum(held, -2.0, propagate_nan=tl.PropagateNan.ALL)
    before = tl.floor(held)
    return tl.maximum(before, -2.0).to(tl.int32), held - before


@triton.jit
def corner(
    row, column, fraction_x, fraction_y, RIGHT: tl.constexpr, BELOW: tl.constexpr, valid_height, valid_width, exists
):
    """Of one of the four pixels around a place: whether it is inside, its weights along x and y."""
    # as unsigned numbers, negative ones are large: one comparison for both ends
    is_row = (row + BELOW).to(tl.uint32, bitcast=True) < valid_height.to(tl.uint32)
    is_column = (column + RIGHT).to(tl.uint32, bitcast=True) < valid_width.to(tl.uint32)
    weight_x = fraction_x if RIGHT else 1.0 - fraction_x
    weight_y = fraction_y if BELOW else 1.0 - fraction_y
    return exists & is_row & is_column, weight_x, weight_y


@triton.jit
def pixel_pointers(
    table_ptr, first_token, row, column, width, channel,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Pointers (rows, channels) to pixels in a (B, S, M, D) table, from the image's and head's first element."""
    token = (first_token + row * width + column).to(INDEX)
    return table_ptr + token[:, None] * (HEADS * CHANNELS) + channel[None, :]


@triton.jit
def step_to(
    RIGHT: tl.constexpr, BELOW: tl.constexpr, width, HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr
):
    """Elements from the first to another of the four pixels; to the right it is a constant of the instruction."""
    return BELOW * width.to(INDEX) * (HEADS * CHANNELS) + RIGHT * (HEADS * CHANNELS)


@triton.jit
def load_pixel(
    pixel_ptr, row, column, fraction_x, fraction_y, RIGHT: tl.constexpr, BELOW: tl.constexpr,
    valid_height, valid_width, width, exists, channel,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """One of the four pixels (rows, channels), zero outside, and its weights along x and y; pixel_ptr: the first's."""
    inside, weight_x, weight_y = corner(
        row, column, fraction_x, fraction_y, RIGHT, BELOW, valid_height, valid_width, exists
    )
    step = step_to(RIGHT, BELOW, width, HEADS, CHANNELS, INDEX)
    return tl.load(pixel_ptr + step, tile_mask(inside, channel, CHANNELS), 0.0).to(REAL), weight_x, weight_y


@triton.jit
def sample(
    table_ptr, row, column, fraction_x, fraction_y, first_token, valid_height, valid_width, width, exists, channel,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, INDEX: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Bilinear samples (rows, channels) of a table, zero outside."""
    pixel = pixel_pointers(table_ptr, first_token, row, column, width, channel, HEADS, CHANNELS, INDEX)
    total = tl.zeros((row.shape[0], channel.shape[0]), REAL)
    for BELOW in tl.static_range(2):
        for RIGHT in tl.static_range(2):
            pixels, weight_x, weight_y = load_pixel(
                pixel, row, column, fraction_x, fraction_y, RIGHT, BELOW,
                valid_height, valid_width, width, exists, channel, HEADS, CHANNELS, INDEX, REAL,
            )  # fmt: skip
            total += pixels * (weight_x * weight_y)[:, None]
    return total
