"""Metadata of image files: only the orientation is read, and broken metadata never make the pixels unreadable."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import BinaryIO

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngStream

# How a stored image is turned upright, by its EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)  # of these, the ones that swap width and height
PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", {b"II*\0": "<", b"MM\0*": ">"}
ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # in a PNG, where XMP and older tools put it
APP0, APP1, APP14, APP15, COMMENT, START_OF_SCAN = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDA  # markers of a JPEG
# Tags of a TIFF that Pillow reads: resolution and its unit, the folders of EXIF, GPS and interoperability.
XMP, TIFF_METADATA = 700, (282, 283, 296, 34665, 34853, 40965)
# Bytes of a value, by its type.
VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
BYTES, NO_TYPE, NO_TAG = (1, 7), 0, 65000
AVIF = (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1")  # behind four bytes
# An entry of an AVIF's list of items up to its type, if that is EXIF or XMP.
AVIF_METADATA = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; without EXIF that of XMP. 1 if none makes sense."""
    try:
        # A PNG's own getexif reads its pixels for what may stand behind them, which is moved to the front here.
        exif_or_xmp = Image.Image.getexif
        value = _from_exif(image.info.get("exif", b"")) or exif_or_xmp(image).get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata raise errors of many types; they then give no orientation
        return 1
    return int(value) if value in UPRIGHT else 1


def _from_exif(block: bytes) -> object:
    """What a block of EXIF, which is a TIFF without pixels, says; None without any."""
    tags, exif = re.sub(b"^(Exif\0\0)+", b"", block), Image.Exif()
    exif.load(_tiff_of_pixels(bytearray(tags), TIFF[tags[:4]]) if tags[:4] in TIFF else tags)
    return exif.get(ExifTags.Base.Orientation)


def without_metadata(file: BinaryIO, pixels: bool = True) -> BinaryIO:
    """`file`, at its beginning; a PNG, JPEG, TIFF or AVIF without what concerns neither pixels nor orientation.

    Pillow rejects a whole file if one such part is broken or large. pixels: False leaves them out too if they
    need not be read, as of a JPEG.
    """
    start = file.read(12)
    file.seek(0)
    if start.startswith(PNG):
        return io.BytesIO(_png_of_pixels(file.read()))
    if start.startswith(JPEG):
        return io.BytesIO(_jpeg_of_pixels(file, pixels))
    if start[:4] in TIFF:
        return io.BytesIO(_tiff_of_pixels(bytearray(file.read()), TIFF[start[:4]]))
    if start[4:12] in AVIF:  # its own properties tell how it is turned
        return io.BytesIO(AVIF_METADATA.sub(rb"\1free", file.read()))
    return file


def _png_of_pixels(data: bytes) -> bytes:
    """Chunks: length, 4 letters of which the first is small if the image can do without, content, checksum.

    Chunks with the orientation are moved before the pixels, so that reading the header is enough.
    """
    header, orientations, rest, place = data[: len(PNG)], [], [], len(PNG)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        place += len(chunk)
        if kind == b"IHDR":
            header += chunk
        elif _tells_orientation(kind, chunk[8:]):
            orientations.append(chunk)
        elif kind[0] < ord("a"):
            rest.append(chunk)
        if kind == b"IEND":
            return b"".join([header, *orientations, *rest])
    return b"".join([header, *orientations, *rest, data[place:]])  # cut short: the decoder raises


def _tells_orientation(kind: bytes, rest: bytes) -> bool:
    """Whether a chunk with this content and checksum may hold an orientation, and can be read."""
    content, checksum = rest[:-4], rest[-4:]
    named = kind == b"eXIf" or (kind in (b"iTXt", b"tEXt", b"zTXt") and content.startswith(ORIENTATION_TEXTS))
    if not named or zlib.crc32(kind + content) != int.from_bytes(checksum, "big"):
        return False
    try:
        PngStream(io.BytesIO(content)).call(kind, 0, len(content))
    except (ValueError, SyntaxError):  # as too long a text, or of an unknown compression
        return False
    return True


def _jpeg_of_pixels(file: BinaryIO, pixels: bool) -> bytes:
    """Segments: 0xFF, marker, length that counts itself, content. Pixels follow the start of the scan."""
    kept = [file.read(len(JPEG))]
    while True:
        head = file.read(4)
        while head.startswith(b"\xff\xff") and len(head) == 4:  # the first one fills up
            head = head[1:] + file.read(1)
        if len(head) < 4 or head[0] != 0xFF:  # no segment: left to the decoder
            return b"".join([*kept, head, file.read()])
        content = file.read(max(int.from_bytes(head[2:], "big") - 2, 0))
        if _concerns_pixels(head[1], content):
            kept += [head, content]
        if head[1] == START_OF_SCAN:
            return b"".join([*kept, file.read() if pixels else b""])


def _concerns_pixels(marker: int, content: bytes) -> bool:
    """Of the segments of applications JFIF's and Adobe's tell the colour space; EXIF and XMP the orientation."""
    if marker == APP0:
        return content.startswith(b"JFIF\0") and len(content) >= 14
    if marker == APP1:
        return content.startswith((b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"))
    if marker == APP14:
        return content.startswith(b"Adobe") and len(content) >= 12
    return not (APP0 < marker <= APP15 or marker == COMMENT)


def _tiff_of_pixels(data: bytearray, order: str) -> bytearray:
    """The first folder of tags: how many, and each as 12 bytes, tag, type, number of values, and these or their place.

    A value that lies beyond the end would make Pillow leave out all tags that follow.
    """
    first = struct.unpack_from(f"{order}I", data, 4)[0] if len(data) >= 8 else len(data)
    number = struct.unpack_from(f"{order}H", data, first)[0] if first + 2 <= len(data) else 0
    for start in range(first + 2, min(first + 2 + 12 * number, len(data) - 11), 12):
        tag, kind, count, place = struct.unpack_from(f"{order}HHII", data, start)
        size = VALUE_SIZES.get(kind, 0) * count
        lost = size > 4 and place + size > len(data)
        if lost or tag in TIFF_METADATA or (tag == XMP and kind not in BYTES):
            struct.pack_into(f"{order}HH", data, start, NO_TAG, NO_TYPE)
    return data
