"""What the kernels share: which rows a program works on, where they sample, and the pixels around each location.

A program takes a block of queries of one head of one image; they are the rows of its tiles. It handles up to four
points (BLOCK_POINTS) of a level at a time, in two kinds of tiles:

    (rows, points)   one number for each sample: location, first pixel, weights. Each lane of a warp holds one sample.
    (rows, words)    the channels of one point of every row. All lanes of a row need what is known of its sample.

`of_point` takes the numbers of one point from tiles of the first kind. So a location is computed once, not in each of
the lanes that hold the sample's channels.

Legend: B images, S tokens, Q queries, M heads, D channels a head, L levels, P points; an image's row is a y.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.vectors import added, as_real, load_pairs, load_vectors, scaled, tile_mask

LEVEL_FIELDS = tl.constexpr(3)  # of the level table: height, width, first token
OUTSIDE = tl.constexpr(-2.0)  # a position whose next pixel is outside, too


@triton.jit
def query_rows(order_ptr, num_queries, ORDERED: tl.constexpr, BLOCK_QUERIES: tl.constexpr, INDEX: tl.constexpr):
    """The queries of a program's rows: a first one (int64, of B * Q), distances from it, and which rows exist.

    order_ptr (slots,): see `tile_order`.
    """
    # 64 bits only once a program: the distances, of which each row has one, are as wide as INDEX
    block, place = tl.program_id(0) * BLOCK_QUERIES, tl.arange(0, BLOCK_QUERIES)
    first = tl.program_id(2).to(tl.int64) * num_queries
    if ORDERED:  # neighbours on the query grid, padded with -1 to whole blocks
        query = tl.load(order_ptr + block + place)
        exists = query >= 0
    else:  # one behind the other
        query = place
        exists = block + place < num_queries
        first += block
    return first, query.to(INDEX), exists


@triton.jit
def level_of(levels_ptr, valid_ptr, level, LEVELS: tl.constexpr, PADDED: tl.constexpr):
    """A level's (height, width), what of it is not padding, and its first token.

    levels_ptr (L, LEVEL_FIELDS): see `level_table`. valid_ptr (B, L, 2): SamplingPoints.valid_sizes.
    """
    field = levels_ptr + level * LEVEL_FIELDS
    height, width = tl.load(field), tl.load(field + 1)
    valid_height, valid_width = valid_size(valid_ptr, level, height, width, LEVELS, PADDED)
    return (height, width), (valid_height, valid_width), tl.load(field + 2)


@triton.jit
def valid_size(valid_ptr, level, height, width, LEVELS: tl.constexpr, PADDED: tl.constexpr):
    """The part of a level, (height, width), that is not padding; never more than the level, whatever was given."""
    if PADDED:
        pair = valid_ptr + (tl.program_id(2).to(tl.int64) * LEVELS + level) * 2
        height = tl.maximum(tl.minimum(tl.load(pair), height), 0).to(tl.int32)
        width = tl.maximum(tl.minimum(tl.load(pair + 1), width), 0).to(tl.int32)
    return height, width


@triton.jit
def locations(
    reference_ptr, offsets_ptr, index, exists, mask, size,
    POINTS: tl.constexpr, SAMPLING: tl.constexpr, BOXES: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Tiles (rows, points), x and y each: locations in pixels, offsets, and the pixels that one unit of offset moves.

    reference_ptr, exists (rows, 1): of the queries. offsets_ptr: from the program's first sample on; index, mask (rows,
    points): of the samples. The centre of the first pixel is at 0; nearest: a location is the centre of the nearest
    pixel.
    """
    offset_x, offset_y = load_pairs(offsets_ptr, index, mask)
    # nearest: floor(position + 0.5), so that the half is not subtracted in the first place
    height, width, centre = size[0].to(REAL), size[1].to(REAL), 0.0 if SAMPLING == "nearest" else 0.5
    x = as_real(tl.load(reference_ptr, exists, 0.0)) * width - centre
    y = as_real(tl.load(reference_ptr + 1, exists, 0.0)) * height - centre
    if BOXES:  # an offset of POINTS is half of the box
        unit_x = as_real(tl.load(reference_ptr + 2, exists, 0.0)) * (width * (0.5 / POINTS))
        unit_y = as_real(tl.load(reference_ptr + 3, exists, 0.0)) * (height * (0.5 / POINTS))
    else:  # offsets are in pixels
        unit_x = tl.full(offset_x.shape, 1.0, REAL)
        unit_y = unit_x
    # rows and points that do not exist lie outside: they read nothing, whatever was loaded for them
    x, y = tl.where(mask, x + offset_x * unit_x, OUTSIDE), tl.where(mask, y + offset_y * unit_y, OUTSIDE)
    if SAMPLING == "nearest":
        x, y = tl.floor(x), tl.floor(y)
    # points may be in double precision, and what is sampled there not
    return (x.to(REAL), y.to(REAL)), (offset_x.to(REAL), offset_y.to(REAL)), (unit_x.to(REAL), unit_y.to(REAL))


@triton.jit
def cell_of(position, size):
    """The pixel before a position along one axis (int32), and the fraction of the way to the next.

    Far outside becomes just outside, since infinity has no fraction. NaN keeps NaN as its fraction, but
    gets a pixel outside.
    """
    # from -2 to size + 1: at both ends neither the pixel nor the next one lies in the level
    held = tl.minimum(position, size.to(position.dtype) + 1.0, propagate_nan=tl.PropagateNan.ALL)
    held = tl.maximum(held, OUTSIDE, propagate_nan=tl.PropagateNan.ALL)
    before = tl.floor(held)
    # this maximum drops NaN: the pixel of a NaN location is OUTSIDE
    return tl.maximum(before, OUTSIDE).to(tl.int32), held - before


@triton.jit
def is_inside(pixel, size):
    """Whether 0 <= pixel < size: as unsigned numbers, negative ones are large."""
    return pixel.to(tl.uint32, bitcast=True) < size.to(tl.uint32)


@triton.jit
def axis_weights(position, size, valid, LEAST: tl.constexpr):
    """Along one axis: the pixel before a position, and the weights of it and of the next.

    A pixel outside weighs nothing; LEAST is added to the weight of the next one if it is inside (see backward.py). All
    weights of a NaN location are NaN.
    """
    pixel, fraction = cell_of(position, size)
    # what is outside weighs fraction * 0 and not 0, which is NaN if the location is
    near = tl.where(is_inside(pixel, valid), 1.0 - fraction, fraction * 0.0)
    far = tl.where(is_inside(pixel + 1, valid), fraction + LEAST, fraction * 0.0)
    return pixel, (near, far)


@triton.jit
def pixel_weights(along_x, along_y, SAMPLING: tl.constexpr):
    """Weights of the pixels that are read: upper left, upper right, lower left, lower right; nearest: the first one.

    Their number is that of all tuples of pixels. More than 2 x 2 would also change `axis_weights`, `pixel_offset`, and
    `location_slopes` and `store_coefficients` in gradients.py.
    """
    if SAMPLING == "nearest":
        weights = (along_x[0] * along_y[0],)
    else:
        above = along_x[0] * along_y[0], along_x[1] * along_y[0]
        weights = above + (along_x[0] * along_y[1], along_x[1] * along_y[1])
    return weights


@triton.jit
def weighted_sample(sample, factor):
    """A sample, (token, weights of its pixels ...), with its weights times a factor."""
    result = (sample[0],)
    for corner in tl.static_range(1, len(sample)):
        result += (sample[corner] * factor,)
    return result


@triton.jit
def of_point(tiles, point):
    """The numbers (rows,) of one point, from tiles (rows, points)."""
    # a gather along the points: lanes of one row exchange registers, and no shared memory is needed
    index = tl.full((tiles[0].shape[0], 1), 0, tl.int32) + point
    numbers = ()
    for number in tl.static_range(len(tiles)):
        numbers += (tl.reshape(tl.gather(tiles[number], index, 1), (tiles[0].shape[0],)),)
    return numbers


@triton.jit
def pixel_offset(corner, step_right, step_below):
    """Elements from the first pixel around a location to the others: right, below, right below."""
    return corner % 2 * step_right + corner // 2 * step_below


@triton.jit
def read_pixels(table, sample, WORDS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, PACKED: tl.constexpr):
    """The pixels around each row's location, vectors in a tuple. What weighs nothing is not read, and zero.

    table: pointer to token 0, and the words from there to the next token and to the next image row. sample: token and
    weights of the pixels, (rows,) each: the weight is the mask of its load.
    """
    word_ptr, step_right, step_below = table
    # one address for all pixels, which lie at the same distances in every row; wide only if the table is large
    word = tl.arange(0, BLOCK)[None, :]
    first = word_ptr + (sample[0][:, None].to(step_below.dtype) * step_right + word)
    pixels = ()
    for corner in tl.static_range(len(sample) - 1):
        mask = tile_mask(sample[1 + corner][:, None] > 0.0, word, WORDS)
        pixels += (load_vectors(first + pixel_offset(corner, step_right, step_below), mask, WORDS, TILES, PACKED),)
    return pixels


@triton.jit
def add_pixels(total, pixels, sample):
    """total + the sum of pixels times the weights of a sample. total: vectors, or () for none."""
    for corner in tl.static_range(len(pixels)):
        weight = sample[1 + corner][:, None]
        total = added(total, pixels[corner], weight) if len(total) else scaled(pixels[corner], weight)
    return total
