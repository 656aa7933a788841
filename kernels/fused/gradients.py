"""What the backward kernel does with the gradient of a sample: its parts, and where they are added or stored."""

import triton
import triton.language as tl

from litedetr.kernels.fused.sampling import pixel_offset
from litedetr.kernels.fused.vectors import dot, tile_mask

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def weight_of(score, log_sum_exp):
    """exp(score - log_sum_exp), but at most 1: of large scores the difference is rounded by more than 1."""
    return tl.minimum(tl.exp2((score - log_sum_exp) * LOG2_E), 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def pixel_dots(vectors, pixels):
    """(rows,) dot products of a vector with each of the pixels, a tuple."""
    dots = ()
    for corner in tl.static_range(len(pixels)):
        dots += (dot(vectors, pixels[corner]),)
    return dots


@triton.jit
def weighted_sum(sample, dots):
    """Sum of numbers of the pixels by the weights of a sample: the dot product with the sample.

    sample: (token, weights of its pixels ...), as of `read_pixels`.
    """
    total = sample[1] * dots[0]
    for corner in tl.static_range(1, len(dots)):
        total += sample[1 + corner] * dots[corner]
    return total


@triton.jit
def location_slopes(dots, along_x, along_y):
    """The derivatives of `weighted_sum` by x and by y, from the weights along the axes."""
    # a weight is the product of one along x and one along y, whose derivatives are -1 (first pixel) and 1 (next one)
    d_x = along_y[0] * (dots[1] - dots[0]) + along_y[1] * (dots[3] - dots[2])
    d_y = along_x[0] * (dots[2] - dots[0]) + along_x[1] * (dots[3] - dots[1])
    return d_x, d_y


@triton.jit
def empty_tiles(NUMBERS: tl.constexpr, ROWS: tl.constexpr, POINTS: tl.constexpr, REAL: tl.constexpr):
    """So many tiles (rows, points) for `put_point`."""
    tiles = ()
    for _ in tl.static_range(NUMBERS):
        tiles += (tl.zeros((ROWS, POINTS), REAL),)
    return tiles


@triton.jit
def put_point(tiles, numbers, point):
    """Tiles (rows, points) with numbers (rows,) put in as those of one point: the opposite of `of_point`."""
    # every lane of a row has the numbers, and the one that holds the point's sample keeps them: nothing is moved
    is_point, result = tl.arange(0, tiles[0].shape[1])[None, :] == point, ()
    for number in tl.static_range(len(numbers)):
        result += (tl.where(is_point, numbers[number][:, None], tiles[number]),)
    return result


@triton.jit
def scatter(grad, sample, weights, vectors, WORDS: tl.constexpr):
    """Add vectors times a weight of each pixel to the gradient of a table, in which even channels precede odd ones.

    grad: as the table of `read_pixels`, in channels. sample: the pixels, and which of them are inside. weights: a
    sample as well. So loads and additions have one layout, each of 16 bytes a lane, and nothing is moved between lanes.
    """
    grad_ptr, step_right, step_below = grad
    # as in `read_pixels`: pixels that weigh nothing get nothing
    word = tl.arange(0, vectors[0].shape[1])[None, :]
    first = grad_ptr + (sample[0][:, None].to(step_below.dtype) * step_right + word)
    for corner in tl.static_range(len(sample) - 1):
        mask = tile_mask(sample[1 + corner][:, None] > 0.0, word, WORDS)
        pixel = first + pixel_offset(corner, step_right, step_below)
        for tile in tl.static_range(len(vectors)):
            gradient = vectors[tile] * weights[1 + corner][:, None]
            # relaxed: nobody reads the sums before the kernel has ended, so that no order needs to be kept
            tl.atomic_add(pixel + tile * WORDS, gradient, mask, sem="relaxed")


@triton.jit
def store_coefficients(
    coefficients_ptr, patch_ptr, patch_levels_ptr, index, mask, numbers, cell, head, num_quads, valid
):
    """What segments.py needs of each sample: its patch, and p, d_score, x, y from the patch's first pixel.

    coefficients_ptr (..., 4), in the precision of the kernel, and patch_ptr (...), integers: of all samples.
    patch_levels_ptr (L, 3): see `Patches.levels`. index, mask (rows, points): of the samples. numbers: p, d_score, x, y
    in pixels; cell: level, column, line of the first pixel around it.
    """
    p, d_score, x, y = numbers
    level, column, line = cell
    patch_level = patch_levels_ptr + level * 3
    first_quad, across, side = tl.load(patch_level), tl.load(patch_level + 1), tl.load(patch_level + 2)
    # the number of the patch: (head, quad, part), by which samples are sorted; -1 if no pixel of it is valid
    touches = (column >= -1) & (column < valid[1]) & (line >= -1) & (line < valid[0])
    patch_line, patch_column = (line + 1) // side, (column + 1) // side
    quad = first_quad + (patch_line // 2) * across + patch_column // 2
    if patch_ptr.dtype.element_ty == tl.int64:  # the host found that 32 bits do not hold all numbers
        head = head.to(tl.int64)
    patch = (head * num_quads + quad) * 4 + (patch_line % 2) * 2 + patch_column % 2
    tl.store(patch_ptr + index, tl.where(touches, patch, -1), mask)
    # segments.py weighs pixels by their distance from the patch's first one
    x, y = x - (patch_column * side - 1).to(x.dtype), y - (patch_line * side - 1).to(y.dtype)
    # join interleaves: p, d_score, x, y lie side by side, and one store of 16 bytes writes them
    together = tl.join(tl.join(p, x), tl.join(d_score, y))
    together = tl.reshape(together, (p.shape[0], p.shape[1], 4))
    place = coefficients_ptr + index[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(place, together, mask[:, :, None])


@triton.jit
def reference_gradient(earlier, location, offsets, size, is_first, POINTS: tl.constexpr, BOXES: tl.constexpr):
    """The head's part of the gradient of a level's reference, x, y and those of the box: sums (rows,) over the points.

    earlier: the same of the level's points before these, unless these are its first. location: d_x, d_y.
    """
    height, width = size[0].to(location[0].dtype), size[1].to(location[0].dtype)
    # a location is reference * size + offset, so the sum over the points times the size
    sums = tl.sum(location[0], 1) * width, tl.sum(location[1], 1) * height
    if BOXES:  # and the box scales the offsets
        sums += (tl.sum(location[0] * offsets[0], 1) * (width * (0.5 / POINTS)),)
        sums += (tl.sum(location[1] * offsets[1], 1) * (height * (0.5 / POINTS)),)
    result = ()
    for number in tl.static_range(len(sums)):
        result += (sums[number] + tl.where(is_first, 0.0, earlier[number]),)
    return result
