"""The gradient of values and keys without atomics: a program adds up the samples around a few pixels, in a fixed order.

The samples lie sorted by patch (kernels/fused/patches.py), a square of 1 to 3 cells a side; a cell is the square
between four pixels that holds a sample. A program adds up one patch. With the weight of each of its pixels for each
sample, zero but for a sample's four,

    gradient (channels, pixels) = dO (channels, samples) @ (p weight) (samples, pixels), and the same of q and d_score

so each sample's dO and q are read once, and tensor cores add. Pixels on the edge of a patch are those of its neighbours
too: each of four launches takes one patch of every quad (two by two). Patches of one launch share no pixel, and a pixel
receives its up to four sums in the order of the launches.

Numbers that are not finite are kept out of the products, where zero weights would spread NaN over the whole patch.
"""

import triton
import triton.language as tl

from litedetr.kernels.fused.sampling import valid_size
from litedetr.kernels.fused.vectors import tile_mask

QUAD_FIELDS = tl.constexpr(8)  # see Patches.quads
LINE = tl.constexpr(4)  # pixels of a line of a patch, of which one more than its cells are in use
PIXELS = tl.constexpr(16)


@triton.jit
def hats(x):
    """(samples,) -> (samples, LINE): the weights of pixels 0 to 3 along one axis, for a sample at x.

    A bilinear weight falls from 1 at its pixel to 0 at both neighbours, so all but two are zero.
    """
    zero, one = tl.maximum(1.0 - tl.abs(x), 0.0), tl.maximum(1.0 - tl.abs(x - 1.0), 0.0)
    two, three = tl.maximum(1.0 - tl.abs(x - 2.0), 0.0), tl.maximum(1.0 - tl.abs(x - 3.0), 0.0)
    # join interleaves: (0, 2) and (1, 3) become 0, 1, 2, 3
    return tl.reshape(tl.join(tl.join(zero, two), tl.join(one, three)), (x.shape[0], LINE))


@triton.jit
def outer(y, x):
    """(samples, LINE) each -> (samples, PIXELS), lines of pixels one after the other."""
    return tl.reshape(y[:, :, None] * x[:, None, :], (x.shape[0], PIXELS))


@triton.jit
def as_singles(x):
    """Halves in single precision."""
    if x.dtype == tl.bfloat16:  # by a shift: one instruction each; a cast takes three for two
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def add_product(total, weight, vector, TF32: tl.constexpr):
    """total (channels, pixels) + vector (samples, channels), transposed, @ weight (samples, pixels)."""
    vector = tl.trans(vector)
    # total is the accumulator of the product, and stays in registers from one step to the next
    if vector.dtype == tl.float64:  # Triton 3.3 has no product of these
        total += tl.sum(vector[:, :, None] * weight[None, :, :], 1)
    elif vector.dtype == tl.float32:
        total = tl.dot(vector, weight, total, input_precision="ieee")
    else:
        # A half has at most the 11 bits of a TF32 number. Weights are rounded to them, by an eighth of what bfloat16
        # rounds by; for float16 the rest is a second product.
        PRECISION: tl.constexpr = "tf32" if TF32 else "ieee"
        rounded = ((weight.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        singles = as_singles(vector)
        total = tl.dot(singles, rounded, total, input_precision=PRECISION)
        if vector.dtype == tl.float16:
            total = tl.dot(singles, weight - rounded, total, input_precision=PRECISION)
    return total


@triton.jit
def load_samples(order_ptr, coefficients_ptr, place, end, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Of the samples at some places in the order: their number, p, d_score, and x, y from the patch's first pixel.

    Their number is -1 from `end` on. order_ptr, coefficients_ptr: of the image, see `segment_kernel`.
    """
    exists = place < end
    slot = tl.load(order_ptr + place, exists, 0).to(INDEX)
    numbers = tl.load(coefficients_ptr + slot[:, None] * 4 + tl.arange(0, 4)[None, :], exists[:, None], 0.0)
    p_and_x, d_score_and_y = tl.split(tl.reshape(numbers, (BLOCK, 2, 2)))  # one load of 16 bytes each
    p, x = tl.split(p_and_x)
    d_score, y = tl.split(d_score_and_y)
    return tl.where(exists, slot, -1), p, d_score, x, y


@triton.jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def load_rows(table_ptr, slot, is_wanted, channel, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr):
    """(samples, channels) of a table_ptr (Q, M, D), zero where it is not wanted. SAMPLES: of a query head."""
    row = tl.where(is_wanted, slot // SAMPLES, -1)  # one number for both, since lanes of a row get it through memory
    mask = tile_mask((row >= 0)[:, None], channel[None, :], CHANNELS)
    return tl.load(table_ptr + row[:, None] * CHANNELS + channel[None, :], mask, 0.0)


@triton.jit
def sum_of_spoiled(
    order_ptr, coefficients_ptr, begin, end, SCORE: tl.constexpr, OF_KEY: tl.constexpr,
    BLOCK: tl.constexpr, INDEX: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """(1, PIXELS): NaN at the four pixels of samples that send numbers that are not finite, else 0."""
    total = tl.zeros((1, PIXELS), REAL)
    while begin < end:
        _, p, d_score, x, y = load_samples(order_ptr, coefficients_ptr, begin + tl.arange(0, BLOCK), end, BLOCK, INDEX)
        coefficient = d_score if OF_KEY else p
        if SCORE == "key_aware_shared":
            coefficient = tl.abs(p) + tl.abs(d_score)
        is_spoiled = (outer(hats(y), hats(x)) > 0.0) & (is_finite(coefficient) == 0)[:, None]
        total += tl.sum(tl.where(is_spoiled, float("nan"), 0.0), 0)[None, :]
        begin += BLOCK
    return total


@triton.jit
def add_to_pixels(grad_ptr, total, pixel, exists, is_first, channel, CHANNELS: tl.constexpr, PART: tl.constexpr):
    """Store the sums (channels, pixels) of pixels that got none yet; add to those that did.

    grad_ptr (S, M, D): of the image, from the head on. pixel (pixels,): distances from there.
    """
    pointer = grad_ptr + pixel[:, None] + channel[None, :]
    # (pixels, channels), as they lie in memory
    total = tl.trans(total)
    if PART > 0:  # no look at memory in the first launch: nothing was written there
        total += tl.load(pointer, tile_mask((exists & (is_first == 0))[:, None], channel[None, :], CHANNELS), 0.0)
    tl.store(pointer, total, tile_mask(exists[:, None], channel[None, :], CHANNELS))


@triton.jit
def segment_kernel(
    query_ptr, quads_ptr, valid_ptr, grad_out_ptr, coefficients_ptr, order_ptr, start_ptr,
    grad_key_ptr, grad_value_ptr, num_quads, num_queries, num_tokens,
    SCORE: tl.constexpr, PADDED: tl.constexpr,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    INDEX: tl.constexpr, REAL: tl.constexpr, SCALE: tl.constexpr, TF32: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Gradients of values and keys from the patches of number PART, one a program. Grid: (quads, heads, images).

    Pointers are to the first number of a contiguous tensor:

        query         (B, Q, M, D)             None if logits were given
        quads         (quads, QUAD_FIELDS)     int32: `Patches.quads`
        valid         (B, L, 2)                integers: height and width without padding; None if not PADDED
        grad_out      (B, Q, M, D)             in the dtype of value
        coefficients  (B, Q, M, L, P, 4)       in REAL: p, d_score, x, y, from the backward kernel
        order         (B, Q * M * L * P)       int64: an image's samples in the order of their patches
        start         (B, M * quads * 4 + 1)   int64: where each patch begins in the order; the last one: the end
        grad_key      (B, S, M, D)             written, in REAL; None if there is no key
        grad_value    (B, S, M, D)             written, in REAL
    """
    # pointers to the image's tensors, and the samples of the patch: those from begin to end in the order
    quad, head, image = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    SAMPLES: tl.constexpr = LEVELS * POINTS
    first_row = image * num_queries * HEADS  # query head, of (B, Q, M)
    order_ptr += first_row * SAMPLES
    coefficients_ptr += first_row * (SAMPLES * 4)
    grad_out_ptr += first_row * CHANNELS
    if SCORE != "deformable":
        query_ptr += first_row * CHANNELS
    start_ptr += ((image * HEADS + head) * num_quads + quad) * 4 + PART + image  # an image has one more
    begin, end = tl.load(start_ptr).to(INDEX), tl.load(start_ptr + 1).to(INDEX)

    # sums (channels, pixels) of products over the samples
    channel = tl.arange(0, BLOCK_CHANNELS)
    d_value = tl.zeros((BLOCK_CHANNELS, PIXELS), REAL)
    d_key = d_value
    spoils_value = tl.zeros((BLOCK_SAMPLES,), tl.int32)
    spoils_key = spoils_value
    next_sample = begin
    while next_sample < end:
        slot, p, d_score, x, y = load_samples(
            order_ptr, coefficients_ptr, next_sample + tl.arange(0, BLOCK_SAMPLES), end, BLOCK_SAMPLES, INDEX
        )
        along_x, along_y = hats(x), hats(y)
        # dO with p; a sample that is not finite is left out, and noted
        p_is_finite = is_finite(p)
        spoils_value |= (p_is_finite == 0).to(tl.int32)
        d_out = load_rows(grad_out_ptr, slot, (slot >= 0) & p_is_finite, channel, CHANNELS, SAMPLES)
        # zero but for the four pixels of each sample, and for places behind the end, whose p is zero
        weight = outer(along_y, along_x * tl.where(p_is_finite, p, 0.0)[:, None])
        d_value = add_product(d_value, weight, d_out, TF32)
        if SCORE != "deformable":  # q with d_score, in the same way
            score_is_finite = is_finite(d_score)
            spoils_key |= (score_is_finite == 0).to(tl.int32)
            q = load_rows(query_ptr, slot, (slot >= 0) & score_is_finite, channel, CHANNELS, SAMPLES)
            weight = outer(along_y, along_x * tl.where(score_is_finite, d_score * SCALE, 0.0)[:, None])
            if SCORE == "key_aware_shared":
                d_value = add_product(d_value, weight, q, TF32)
            else:
                d_key = add_product(d_key, weight, q, TF32)
        next_sample += BLOCK_SAMPLES
    if tl.max(spoils_value | spoils_key, 0) > 0:  # rare: the samples are read again, to put NaN on their pixels
        d_value += sum_of_spoiled(order_ptr, coefficients_ptr, begin, end, SCORE, False, BLOCK_SAMPLES, INDEX, REAL)
        if SCORE == "key_aware":
            d_key += sum_of_spoiled(order_ptr, coefficients_ptr, begin, end, SCORE, True, BLOCK_SAMPLES, INDEX, REAL)

    # where the pixels of the patch lie in the level, and which of them exist
    quads_ptr += quad * QUAD_FIELDS
    top, left = tl.load(quads_ptr), tl.load(quads_ptr + 1)
    side, level = tl.load(quads_ptr + 2), tl.load(quads_ptr + 3)
    height, width, first_token = tl.load(quads_ptr + 4), tl.load(quads_ptr + 5), tl.load(quads_ptr + 6)
    below, right = PART // 2, PART % 2
    pixel = tl.arange(0, PIXELS)
    pixel_line, pixel_column = pixel // LINE, pixel % LINE
    line, column = top + below * side + pixel_line, left + right * side + pixel_column
    # as unsigned numbers, -1 is large
    exists = (pixel_line <= side) & (line.to(tl.uint32, bitcast=True) < height.to(tl.uint32))
    exists &= (pixel_column <= side) & (column.to(tl.uint32, bitcast=True) < width.to(tl.uint32))
    # Parts run in the order 0, 1, 2, 3. A lower part shares its first and last line with earlier ones, a right part its
    # first and last column: there it adds to what they stored.
    is_first = (below == 0) | ((pixel_line > 0) & (pixel_line < side))
    is_first &= (right == 0) | ((pixel_column > 0) & (pixel_column < side))
    if PADDED:  # pixels of the padding were not read
        valid_height, valid_width = valid_size(valid_ptr, level, height, width, LEVELS, PADDED)
        is_valid = (line < valid_height) & (column < valid_width)
        d_value = tl.where(is_valid[None, :], d_value, 0.0)
        d_key = tl.where(is_valid[None, :], d_key, 0.0)
    table = (image * num_tokens * HEADS + head) * CHANNELS
    element = (first_token + line * width + column).to(INDEX) * (HEADS * CHANNELS)
    add_to_pixels(grad_value_ptr + table, d_value, element, exists, is_first, channel, CHANNELS, PART)
    if SCORE == "key_aware":
        add_to_pixels(grad_key_ptr + table, d_key, element, exists, is_first, channel, CHANNELS, PART)
