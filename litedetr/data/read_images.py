"""Image files of any kind to 8-bit RGB, and on to tensors of the size that the detector takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from litedetr.data.errors import DataError
from litedetr.data.image_formats import plugin_advice, register_plugins
from litedetr.data.image_metadata import QUARTER_TURNS, UPRIGHT, orientation, without_metadata


def read_image(source: Path | BinaryIO, size: tuple[int, int] | None = None) -> Image.Image:
    """The image at a path, or in an open file, as RGB, upright by its EXIF orientation; of several frames the first.

    size: (height, width) that annotations refer to. A set annotated on unrotated pixels, whose size fits only
    before the rotation, is left unrotated. DataError if neither fits or the file cannot be decoded.
    """
    with _opened(source) as stored:
        stored.load()
        turn = UPRIGHT.get(orientation(stored))
        upright = stored if turn is None else stored.transpose(turn)
        image = to_rgb(stored if size and upright.size != size[::-1] else upright)
    if size and image.size != size[::-1]:
        (height, width), (real_width, real_height) = size, image.size
        raise DataError(
            f"{source}: the annotations say {width}x{height} pixels, the file has {real_width}x{real_height}"
        )
    return image


def read_size(source: Path | BinaryIO) -> tuple[int, int]:
    """(height, width) of the upright image at a path, or in an open file. For most formats only the header is read.

    DataError if it cannot be read.
    """
    with _opened(source, pixels=False) as stored:
        if stored.format == "TIFF":
            stored.load()  # turns it, and forgets the orientation; before that, `size` depends on Pillow's version
        width, height = stored.size
        turned = orientation(stored) in QUARTER_TURNS
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(source: Path | BinaryIO, pixels: bool = True) -> Iterator[Image.Image]:
    """As Image.open, with DataError for whatever goes wrong before its end. pixels: whether they will be needed."""
    register_plugins()
    try:
        # Not of the path: Pillow would map an uncompressed TIFF, and mix up the pixels of one that has to be turned.
        opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
        with opened as file, Image.open(without_metadata(file, pixels)) as stored:
            if isinstance(stored, ImageFile.StubImageFile):
                stored.load()  # Pillow knows the format but not how to decode it
            if min(stored.size) < 1:
                raise ValueError(f"its size is {stored.size[0]}x{stored.size[1]} pixels")
            yield stored
    except UnidentifiedImageError:
        reason = f"it is of no format that Pillow knows{plugin_advice(source)}"
        raise DataError(f"{source}: cannot be read as an image: {reason}") from None
    except Exception as error:  # decoders raise errors of many types
        raise DataError(f"{source}: cannot be read as an image: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB; 12- and 16-bit values are scaled to 8 bits, transparency is dropped."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected 16-bit pixels, got values from {values.min()} to {values.max()}")
        # Files do not say that they hold 12 bits. One threshold, so that all images of a 12-bit set are scaled alike.
        depth = 12 if values.max() < 2**12 else 16
        return Image.fromarray((values >> (depth - 8)).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image to (3, h, w) uint8, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) uint8 resized to `size` (width, height), bilinearly and with antialiasing.

    As Pillow does it, in integers, with weights of 14 bits in place of 22: the same bytes on every processor, and few
    of them one grey level from Pillow's. It takes a third of the time.
    """
    width, height = size
    if pixels.shape[-2:] == (height, width):
        return pixels
    # The first axis is made before the others are permuted: only so does PyTorch see that channels are last.
    rows = pixels.permute(1, 2, 0).contiguous()[None]
    new = F.interpolate(rows.permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)
    return new[0]
