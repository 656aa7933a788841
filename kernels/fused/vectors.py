"""The channels of a head, and pairs of coordinates, as the kernels read and write them.

A vector of D channels for every row of a tile is a tuple of two tiles (rows, words): then four lanes of a warp hold the
32 channels of a row in any precision, and a sum over them takes two steps.

- halves: a 32-bit word is two channels, and the tiles are the even and the odd ones. To unpack two bf16 takes two
  instructions (a shift and a mask), to convert separate ones three.
- else: the tiles are the first and the second half of the channels.
- an odd number of channels: one tile.
"""

import triton
import triton.language as tl


@triton.jit
def as_words(ptr, PACKED: tl.constexpr):
    """A pointer to channels as one to words. PACKED: the dtype of halves, two of which are a word; else empty."""
    return ptr.to(tl.pointer_type(tl.int32)) if PACKED != "" else ptr


@triton.jit
def as_real(x):
    """In the precision that kernels compute in: single, or double if it is that."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def unpack(word, HALF: tl.constexpr):
    """The lower and the upper one of two halves, in single precision."""
    if HALF == "bfloat16":  # the upper half of a single
        lower, upper = (word << 16).to(tl.float32, bitcast=True), (word & -65536).to(tl.float32, bitcast=True)
    elif HALF == "float16":
        # a conversion to 16 bits keeps the lower half of the word; a shift brings the upper one there
        lower = word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        upper = (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return lower, upper


@triton.jit
def pack(lower, upper, DTYPE: tl.constexpr):
    """The opposite of `unpack`; DTYPE: bfloat16 or float16."""
    # by way of unsigned numbers: a sign would be repeated in the upper half of the word
    lower = lower.to(DTYPE).to(tl.uint16, bitcast=True).to(tl.int32)
    upper = upper.to(DTYPE).to(tl.uint16, bitcast=True).to(tl.int32)
    return lower | (upper << 16)


@triton.jit
def load_vectors(word_ptr, mask, WORDS: tl.constexpr, TILES: tl.constexpr, PACKED: tl.constexpr):
    """Vectors of TILES tiles of WORDS words in full precision, zero outside the mask; word_ptr (rows, words)."""
    if PACKED != "":  # one load gives both tiles
        vectors = unpack(tl.load(word_ptr, mask, 0), PACKED)
    else:  # the second tile lies WORDS channels behind the first
        vectors = (as_real(tl.load(word_ptr, mask, 0.0)),)
        for tile in tl.static_range(1, TILES):
            vectors += (as_real(tl.load(word_ptr + tile * WORDS, mask, 0.0)),)
    return vectors


@triton.jit
def store_vectors(ptr, vectors, row, exists, WORDS: tl.constexpr, PACKED: tl.constexpr):
    """Write vectors to ptr + row, as `load_vectors` reads them.

    ptr: in numbers of the tensor's dtype. row (rows,): in words.
    """
    word = tl.arange(0, vectors[0].shape[1])[None, :]
    mask, at = tile_mask(exists[:, None], word, WORDS), row[:, None] + word
    if PACKED != "":
        tl.store(as_words(ptr, PACKED) + at, pack(vectors[0], vectors[1], ptr.dtype.element_ty), mask)
    else:
        for tile in tl.static_range(len(vectors)):
            tl.store(ptr + at + tile * WORDS, vectors[tile], mask)


@triton.jit
def load_pairs(ptr, index, mask):
    """Pairs (x, y), each read as one word, so that each lane has both of its sample. ptr (..., 2); index: of a pair."""
    if ptr.dtype.element_ty == tl.bfloat16:
        x, y = unpack(tl.load(as_words(ptr, "bfloat16") + index, mask, 0), "bfloat16")
    elif ptr.dtype.element_ty == tl.float16:
        x, y = unpack(tl.load(as_words(ptr, "float16") + index, mask, 0), "float16")
    elif ptr.dtype.element_ty == tl.float32:
        # x, which comes first in memory, is the lower half of a 64-bit word
        word = tl.load(ptr.to(tl.pointer_type(tl.int64)) + index, mask, 0)
        x, y = word.to(tl.int32).to(tl.float32, bitcast=True), (word >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    else:  # no word holds two doubles
        x, y = tl.load(ptr + index * 2, mask, 0.0), tl.load(ptr + index * 2 + 1, mask, 0.0)
    return x, y


@triton.jit
def store_pairs(ptr, index, x, y, mask):
    """The opposite of `load_pairs`."""
    if ptr.dtype.element_ty == tl.bfloat16:
        tl.store(as_words(ptr, "bfloat16") + index, pack(x, y, tl.bfloat16), mask)
    elif ptr.dtype.element_ty == tl.float16:
        tl.store(as_words(ptr, "float16") + index, pack(x, y, tl.float16), mask)
    elif ptr.dtype.element_ty == tl.float32:
        # unsigned, as in `pack`
        low, high = x.to(tl.float32).to(tl.uint32, bitcast=True), y.to(tl.float32).to(tl.uint32, bitcast=True)
        tl.store(ptr.to(tl.pointer_type(tl.int64)) + index, low.to(tl.int64) | (high.to(tl.int64) << 32), mask)
    else:
        tl.store(ptr + index * 2, x, mask)
        tl.store(ptr + index * 2 + 1, y, mask)


@triton.jit
def tile_mask(exists, column, COLUMNS: tl.constexpr):
    """Which elements of a tile exist: exists (rows, 1), column (1, columns) of which only the first COLUMNS do."""
    mask = exists
    if column.shape[1] != COLUMNS:  # a mask along the columns costs predicate registers
        mask = mask & (column < COLUMNS)
    return mask


@triton.jit
def dot(a, b):
    """(rows,) dot products of two vectors a row."""
    # each lane first adds up what it holds of both tiles; only the last sum is across lanes
    products = a[0] * b[0]
    for tile in tl.static_range(1, len(a)):
        products += a[tile] * b[tile]
    return tl.sum(products, 1)


@triton.jit
def scaled(vectors, factor):
    """Vectors times a number for each row, factor (rows, 1), or for all."""
    result = (vectors[0] * factor,)
    for tile in tl.static_range(1, len(vectors)):
        result += (vectors[tile] * factor,)
    return result


@triton.jit
def added(total, vectors, factor):
    """total + vectors * factor; see `scaled`."""
    result = (total[0] + vectors[0] * factor,)
    for tile in tl.static_range(1, len(vectors)):
        result += (total[tile] + vectors[tile] * factor,)
    return result


@triton.jit
def zero_vectors(ROWS: tl.constexpr, WORDS: tl.constexpr, TILES: tl.constexpr, REAL: tl.constexpr):
    """(ROWS, WORDS) tiles of zeros."""
    zeros = tl.zeros((ROWS, WORDS), REAL)
    return (zeros, zeros) if TILES == 2 else (zeros,)
