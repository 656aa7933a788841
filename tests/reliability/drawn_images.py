"""Image files of every mode and format, drawn by Hypothesis with the pixels that they must be read as."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

COLOURS = np.array([(200, 30, 60), (20, 180, 90), (40, 60, 220), (240, 240, 20)], np.uint8)
GREYS = np.array([30, 90, 170, 250], np.uint8)  # above 15: beyond 12 bits in images of 16
ALPHAS = np.array([255, 128, 0, 7], np.uint8)
LOSSY = (
    36  # mean error of a lossy file in levels, WebP halves the resolution of colours; turned wrong, it is 40 or more
)
ORIENTATION = 0x0112
# From the upright picture to the pixels as they are stored, by EXIF orientation.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
MODES = {
    "PNG": ("1", "L", "LA", "P", "P+", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "P+"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("L", "RGB"),
    "TGA": ("L", "LA", "P", "RGB", "RGBA"),
    "JPEG2000": ("L", "RGB", "RGBA"),
}
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "JPEG": tuple({"quality": 95, "subsampling": 0, "progressive": progressive} for progressive in (False, True)),
    "WEBP": ({"lossless": True, "exact": True}, {"quality": 100}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
    "TGA": ({}, {"compression": "tga_rle"}),
}
WITH_EXIF, WITH_FRAMES = ("PNG", "JPEG", "WEBP", "TIFF"), ("GIF", "WEBP", "TIFF", "PNG")


@dataclass(frozen=True)
class Stored:
    """A file's bytes, and the upright picture (H, W, 3) that was put in; lossy: not to the last bit."""

    label: str
    data: bytes
    picture: np.ndarray
    lossy: bool

    def is_shown_by(self, pixels: np.ndarray) -> bool:
        if pixels.shape != self.picture.shape:
            return False
        error = np.abs(pixels.astype(int) - self.picture)
        return error.mean() <= LOSSY if self.lossy else not error.any()


def _quarters(height: int, width: int) -> np.ndarray:
    """(H, W) of 0 to 3: another one in every corner."""
    return (np.arange(height) >= (height + 1) // 2)[:, None] * 2 + (np.arange(width) >= (width + 1) // 2)


def _painted(mode: str, index: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """The image in `mode`, and the RGB (4, 3) that each of the four values must become."""
    grey, black = GREYS[:, None].repeat(3, 1), np.array([0, 255, 0, 255], np.uint8)
    if mode in ("P", "P+"):
        image = Image.fromarray(index.astype(np.uint8), "L")
        image.putpalette(COLOURS.tobytes())
        return image, COLOURS
    if mode == "1":
        return Image.fromarray(black[index]).convert("1"), black[:, None].repeat(3, 1)
    if mode in ("I", "I;16"):
        values = GREYS.astype(np.int32 if mode == "I" else np.uint16) * 256 + 77
        return Image.fromarray(values[index]), grey
    values = {
        "L": GREYS,
        "LA": np.column_stack([GREYS, ALPHAS]),
        "RGB": COLOURS,
        "RGBA": np.column_stack([COLOURS, ALPHAS]),
        "CMYK": np.column_stack([255 - COLOURS, np.zeros(4, np.uint8)]),
    }[mode]
    image = Image.fromarray(values[index], mode if mode == "CMYK" else None)
    return image, grey if mode in ("L", "LA") else COLOURS


def _sizes() -> Any:
    side = st.integers(1, 40)
    strips = st.sampled_from(((1, 1), (1, 2000), (2000, 1), (4, 700)))
    return st.one_of(st.tuples(side, side), st.tuples(side, side), strips)


@st.composite
def stored_images(draw: Any, kinds: tuple[str, ...] = tuple(MODES)) -> Stored:
    """A whole file of one of the formats `kinds`."""
    kind = draw(st.sampled_from(kinds))
    mode, options = draw(st.sampled_from(MODES[kind])), dict(draw(st.sampled_from(OPTIONS.get(kind, ({},)))))
    if mode in ("1", "I", "I;16", "LA"):
        options.pop("compression", None)
    index = _quarters(*draw(_sizes()))
    if kind == "WEBP" and "quality" in options:
        index = index.repeat(4, 0).repeat(4, 1)  # its colours have half the resolution, and are smoothed
    orientation = draw(st.sampled_from((1, 1, *STORED))) if kind in WITH_EXIF else 1
    image, colours = _painted(mode, np.ascontiguousarray(STORED[orientation](index)))
    lossy = kind == "JPEG" or "quality" in options
    if kind == "JPEG2000":
        options["irreversible"] = False
    if mode == "P+":
        options["transparency"] = 1
    if orientation > 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    elif kind in WITH_FRAMES and mode in ("L", "RGB") and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [Image.new(mode, image.size)]}
    file = io.BytesIO()
    image.save(file, kind, **options)
    label = f"{kind} {mode} {image.size} orientation {orientation} {sorted(options)}"
    return Stored(label, file.getvalue(), colours[index], lossy)


def cut_images() -> Any:
    """(whole, its bytes up to anywhere). JPEG 2000 is left out: Pillow shows one cut behind its header as black."""
    kinds = tuple(kind for kind in MODES if kind != "JPEG2000")
    return st.tuples(stored_images(kinds), st.floats(0, 1, exclude_max=True)).map(
        lambda pair: (pair[0], pair[0].data[: int(pair[1] * len(pair[0].data))])
    )


def flipped_images() -> Any:
    """(whole, its bytes with one to three of them changed)."""
    changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3)
    return st.tuples(stored_images(), changes).map(lambda pair: (pair[0], _flipped(pair[0].data, pair[1])))


def _flipped(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for where, mask in changes:
        changed[int(where * len(changed))] ^= mask
    return bytes(changed)


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG of 4x4 pixels whose header, checksum and all, says another size."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 60)).save(file, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + file.getvalue()[24:29]
    return file.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + file.getvalue()[33:]


def rubbish() -> Any:
    """Bytes that are no image, some of which begin like one."""
    beginnings = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"RIFF", b"P6 ", b"<svg>")
    stubs = (b"\x89HDF\r\n\x1a\n", b"GRIB\0\0\0\1", b"BUFR", b"\1\0\0\0" + bytes(36) + b" EMF")
    lies = ((50_000, 50_000), (2**31 - 1, 1), (5, 4), (4, 9), (0, 4), (4, 2**31), (1, 1_000_000))
    declared = st.sampled_from(lies).map(lambda size: png_that_declares(*size))
    return st.builds(bytes.__add__, st.sampled_from(beginnings + stubs), st.binary(max_size=60)) | declared
