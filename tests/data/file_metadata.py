"""Image files with metadata of any kind beside good pixels, made by hand: Pillow writes none that are broken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 6, 3), dtype=np.uint8)
SHORT, FLOAT, ORIENTATION, RESOLUTION_UNIT = 3, 11, 0x0112, 0x0128
XMP = b'<x:xmpmeta tiff:Orientation="%d"/>'


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """An entry of a little-endian folder of tags; `value`: four bytes, itself or its place."""
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")[:4]


def turned(orientation: int) -> bytes:
    return entry(ORIENTATION, SHORT, 1, struct.pack("<H", orientation))


def exif(*entries: bytes) -> bytes:
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def stored(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


def png(chunks: bytes, behind: bool = False) -> bytes:
    """`chunks` before the pixels, or behind them."""
    data = stored("PNG")
    place = -12 if behind else 33
    return data[:place] + chunks + data[place:]


def jpeg(segments: bytes) -> bytes:
    data = stored("JPEG", quality=100, subsampling=0)
    return data[:2] + segments + data[2:]


def webp(block: bytes, **options: Any) -> bytes:
    return stored("WEBP", lossless=True, exif=block, **options)


def tiff(*entries: bytes) -> bytes:
    """Uncompressed, with further entries; a tag that is there already is replaced."""
    data = stored("TIFF")
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    old = (data[place + 2 + 12 * i : place + 14 + 12 * i] for i in range(count))
    tags = {item[:2]: item for item in (*old, *entries)}
    ordered = sorted(tags.values(), key=lambda item: struct.unpack_from("<H", item))
    folder = struct.pack("<H", len(ordered)) + b"".join(ordered) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + folder


OTHER_TAGS = (270, 271, 282, 283, 296, 305, 700, 33432, 33723, 34377, 34665, 34675, 34853, 37500, 40965)
ANY_ENTRY = st.builds(
    entry,
    st.sampled_from(OTHER_TAGS),
    st.sampled_from((0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 16, 99)),
    st.sampled_from((0, 1, 1, 1, 2, 100)),
    st.binary(max_size=4),
)


@st.composite
def any_metadata(draw: Any) -> tuple[bytes, int]:
    """A file's bytes and the orientation that it tells, 1 for none."""
    orientation = draw(st.integers(1, 8))
    tags = draw(st.lists(ANY_ENTRY, max_size=4))
    place = draw(st.integers(0, len(tags)))
    block = exif(*tags[:place], turned(orientation), *tags[place:]) + draw(st.binary(max_size=20))
    rubbish = draw(st.sampled_from((block[:9], b"", b"hello world", b"II*\0", draw(st.binary(max_size=30)))))
    kind = draw(st.sampled_from((_any_png, _any_jpeg, _any_webp)))
    if draw(st.integers(0, 3)) == 0:
        return tiff(*tags, turned(orientation)), orientation
    return draw(kind(*((rubbish, 1) if draw(st.booleans()) else (block, orientation))))


@st.composite
def _any_png(draw: Any, block: bytes, orientation: int) -> tuple[bytes, int]:
    kinds = st.sampled_from((b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"tRNS"))
    others = draw(
        st.lists(st.builds(chunk, kinds, st.binary(max_size=40), st.sampled_from((None, None, 7))), max_size=3)
    )
    return png(b"".join([*others, chunk(b"eXIf", block)]), behind=draw(st.booleans())), orientation


@st.composite
def _any_jpeg(draw: Any, block: bytes, orientation: int) -> tuple[bytes, int]:
    starts = (b"JFIF", b"ICC_PROFILE\0", b"MPF\0", b"Adobe", b"FPXR\0", b"Photoshop 3.0\0008BIM", b"")
    contents = st.builds(bytes.__add__, st.sampled_from(starts), st.binary(max_size=12))
    markers = st.sampled_from((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF, 0xFE))
    others = draw(st.lists(st.builds(segment, markers, contents), max_size=3))
    return jpeg(b"".join([*others, segment(0xE1, b"Exif\0\0" + block)])), orientation


@st.composite
def _any_webp(draw: Any, block: bytes, orientation: int) -> tuple[bytes, int]:
    return webp(block, icc_profile=draw(st.binary(max_size=20)), xmp=draw(st.binary(max_size=20))), orientation
