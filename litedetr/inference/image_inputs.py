"""Images of any kind that Python programs have: their sizes first, their RGB pixels when they are needed."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.masked import MaskedTensor

from litedetr.data import read_image, read_size, to_rgb
from litedetr.paths import user_path

ImageLike = Image.Image | np.ndarray | Tensor | str | os.PathLike | bytes | bytearray | memoryview | BinaryIO
KINDS = "a PIL image, an array, a tensor, a path, the bytes of an image file or an open one"
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")  # a Windows drive (C:) has only one letter


@dataclass(frozen=True)
class ImageInput:
    """An image whose pixels are read later."""

    size: tuple[int, int]  # (height, width), upright
    read: Callable[[], Image.Image]  # its RGB pixels, anew at each call


def as_iterable(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """One image, or several, which come as a batch of four dimensions or as anything that can be iterated over."""
    is_one = (
        isinstance(images, (Image.Image, str, os.PathLike, bytes, bytearray, memoryview, Mapping))
        or (isinstance(images, (np.ndarray, Tensor)) and images.ndim <= 3)
        or hasattr(images, "read")
        or not isinstance(images, Iterable)  # not an image: `as_image_input` says so
    )
    return [images] if is_one else images


def as_image_input(image: ImageLike, number: int) -> ImageInput:
    """Image `number` of those that `Predictor.predict` takes.

    ValueError if it is none; what is wrong with its pixels shows only when they are read.
    """
    name = f"images[{number}]"
    if isinstance(image, (str, os.PathLike)):
        path = _path(image, name)
        return ImageInput(read_size(path), partial(read_image, path))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _encoded(lambda: bytes(image), name)
    if hasattr(image, "read"):
        return _encoded(_contents(image, name), name)
    if isinstance(image, Image.Image):
        return _from_pillow(image, name)
    if isinstance(image, Tensor):
        return _from_tensor(image, name)
    if isinstance(image, np.ndarray):
        size = _size(image.shape, name, "an array (H, W, 3) or (H, W)", image.shape)
        return ImageInput(size, partial(_pixels, image, name))
    raise ValueError(f"{name}: expected {KINDS}, got {type(image).__name__}")


def _path(image: str | os.PathLike, name: str) -> Path:
    text = os.fsdecode(image)
    shown = text if len(text) <= 200 else f"{text[:60]}... of {len(text)} characters"
    if ADDRESS.match(text):
        raise ValueError(f"{name}: expected a file of this machine, got the address {shown}; download it first")
    path = user_path(text)
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:  # longer than any path, or with a null character
        raise ValueError(f"{name}: expected the path of an image, got {shown!r} ({error.args[-1]})") from error
    if is_folder:
        advice = "sorted(path.iterdir()) lists its files"
        raise ValueError(f"{name}: expected an image file, got the folder {shown}; {advice}")
    return path


class _Encoded(io.BytesIO):
    """An image file in memory, by its name in errors."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name

    def __str__(self) -> str:
        return self.name


def _encoded(contents: Callable[[], bytes], name: str) -> ImageInput:
    """contents: gives the bytes of the file, so that those of an open one are in memory only while they are needed."""
    return ImageInput(read_size(_Encoded(contents(), name)), lambda: read_image(_Encoded(contents(), name)))


def _contents(file: BinaryIO, name: str) -> Callable[[], bytes]:
    """All of an open file, wherever it stands. What cannot go back to its beginning, such as a pipe, is kept."""

    def read() -> bytes:
        try:
            if seekable:
                file.seek(0)
            data = file.read()
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: expected a file that is open to be read, got {file!r} ({error})") from error
        if not isinstance(data, (bytes, bytearray, memoryview)):
            binary = "a file opened in binary mode, open(path, 'rb')"
            raise ValueError(f"{name}: expected {binary}, got {file!r}, which gives {type(data).__name__}")
        return bytes(data)

    closed = getattr(file, "closed", False)
    seekable = hasattr(file, "seekable") and (closed or file.seekable())
    if seekable:
        return read
    kept = read()
    return lambda: kept


def _from_pillow(image: Image.Image, name: str) -> ImageInput:
    if 0 in image.size:
        raise ValueError(f"{name}: expected at least one pixel, got the size {image.size}")

    def read() -> Image.Image:
        try:
            return to_rgb(image)
        except Exception as error:  # a file that was opened, but is decoded only now: errors of many types
            raise ValueError(f"{name}: cannot be read as an image: {error}") from error

    return ImageInput(image.size[::-1], read)


def _from_tensor(image: Tensor, name: str) -> ImageInput:
    if image.layout != torch.strided or image.is_meta or image.is_quantized or isinstance(image, MaskedTensor):
        masked = isinstance(image, MaskedTensor)
        got = "a MaskedTensor" if masked else f"{image.layout}, {image.dtype} on {image.device}"
        raise ValueError(f"{name}: expected a dense tensor of plain values, got {got}")
    channels_last = image.detach().movedim(0, -1) if image.ndim == 3 else image.detach()
    size = _size(channels_last.shape, name, "a tensor (3, H, W), (1, H, W) or (H, W)", tuple(image.shape))

    def read() -> Image.Image:
        pixels = channels_last.cpu().resolve_neg()
        return _pixels((pixels.float() if pixels.is_floating_point() else pixels).numpy(), name)

    return ImageInput(size, read)


def _size(channels_last: Sequence[int], name: str, expected: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of a shape (H, W), (H, W, 1) or (H, W, 3); `shape` is what the user gave."""
    fits = len(channels_last) == 2 or (len(channels_last) == 3 and channels_last[-1] in (1, 3))
    if not fits or 0 in channels_last:
        raise ValueError(f"{name}: expected {expected} with at least one pixel, got the shape {shape}")
    return channels_last[0], channels_last[1]


def _pixels(values: np.ndarray, name: str) -> Image.Image:
    """values (H, W), (H, W, 1) or (H, W, 3)."""
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            got = f"values from {values.min()} to {values.max()}"
            raise ValueError(f"{name}: expected floats in [0, 1] (normalised ones are not taken), got {got}")
        values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"{name}: expected uint8 or floats in [0, 1], got {values.dtype}")
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")
