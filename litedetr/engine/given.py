"""Images as people have them in Python, of any kind, to RGB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from litedetr.data import read_image, to_rgb
from litedetr.paths import user_path

Picture = Image.Image | np.ndarray | Tensor | str | Path


def as_pictures(images: Picture | Sequence[Picture]) -> list[Image.Image]:
    """RGB images of what `Predictor.predict` takes, one or several. ValueError names the first that is none."""
    return [_as_picture(image, number) for number, image in enumerate(_several(images))]


def _several(images: Picture | Sequence[Picture]) -> list[Picture]:
    is_one = (
        isinstance(images, (Image.Image, str, Path))
        or (isinstance(images, (np.ndarray, Tensor)) and images.ndim <= 3)
        or not isinstance(images, Iterable)  # no image either, which `_as_picture` tells
    )
    return [images] if is_one else list(images)


def _as_picture(image: Picture, number: int) -> Image.Image:
    """`number` names it in errors."""
    if isinstance(image, (str, Path)):
        return read_image(user_path(image))
    if isinstance(image, Image.Image):
        return _from_pillow(image, number)
    if isinstance(image, Tensor):
        expected = "a tensor (3, H, W), (1, H, W) or (H, W)"
        return _from_array(_channels_last(image, number), number, expected, tuple(image.shape))
    if isinstance(image, np.ndarray):
        return _from_array(image, number, "an array (H, W, 3) or (H, W)", image.shape)
    raise ValueError(
        f"images[{number}]: expected a PIL image, an array, a tensor or a path, got {type(image).__name__}"
    )


def _from_pillow(image: Image.Image, number: int) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"images[{number}]: expected at least one pixel, got the size {image.size}")
    try:
        return to_rgb(image)
    except Exception as error:  # a file that was opened, but is decoded only now: errors of many types
        raise ValueError(f"images[{number}]: cannot be read as an image: {error}") from error


def _channels_last(image: Tensor, number: int) -> np.ndarray:
    if image.layout != torch.strided or image.is_meta or image.is_quantized:
        got = f"{image.layout}, {image.dtype} on {image.device}"
        raise ValueError(f"images[{number}]: expected a dense tensor of plain values, got {got}")
    pixels = image.detach().cpu()
    pixels = pixels.float() if pixels.is_floating_point() else pixels
    return (pixels.movedim(0, -1) if pixels.ndim == 3 else pixels).numpy()


def _from_array(pixels: np.ndarray, number: int, expected: str, shape: tuple[int, ...]) -> Image.Image:
    """pixels (H, W), (H, W, 1) or (H, W, 3)."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3) or 0 in pixels.shape:
        raise ValueError(f"images[{number}]: expected {expected} with at least one pixel, got the shape {shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            got = f"values from {pixels.min()} to {pixels.max()}"
            raise ValueError(f"images[{number}]: expected floats in [0, 1] (normalised ones are not taken), got {got}")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"images[{number}]: expected uint8 or floats in [0, 1], got {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
