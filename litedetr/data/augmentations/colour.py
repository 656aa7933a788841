"""Other colours; boxes stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from litedetr.data.augmentations.registry import augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.transforms import LabelledImage

# Ranges of SSD (Liu et al., 2016). Each of the four is drawn with a probability of one half.
BRIGHTNESS = 32  # grey levels up or down
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = 18  # degrees either way
# Red, green and blue to luma and two coordinates of colour, in which hue is an angle (YIQ, NTSC 1953), rounded to 3
# digits: https://en.wikipedia.org/wiki/YIQ
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
FRACTION_BITS = 10  # of the matrix; products of 8 bits, 10 and some for the sum fit into 32


@augmentation
def photometric_distortion(item: LabelledImage, source: Source) -> LabelledImage:
    """Random brightness, contrast, saturation and hue: SSD's photometric distortion (Liu et al., 2016, section 2.2).

    All four as one matrix and one offset, cut to 0..255 once at the end. Where it differs from SSD's published code:
    hue is an angle in YIQ, not in HSV, which keeps the luma and is linear. Contrast is the distance from the image's
    mean luma, as in torchvision, not from black, which would leave bright images nearly white.
    """
    rng = source.rng
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if rng.random() < 0.5 else 0.0
    contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-HUE, HUE) if rng.random() < 0.5 else 0.0
    offset = contrast * brightness + (1 - contrast) * (mean_luma(item.image) if contrast != 1 else 0)
    return replace(item, image=transform_colours(item.image, contrast * colour_matrix(saturation, hue), offset))


def mean_luma(image: Tensor) -> float:
    """Of (3, h, w) uint8, in grey levels."""
    _, height, width = image.shape
    columns = image.permute(1, 2, 0).reshape(height, -1).sum(dim=0, dtype=torch.int32)  # as the bytes lie in memory
    return float(YIQ[0] @ columns.reshape(width, 3).sum(dim=0).numpy()) / (height * width)


def colour_matrix(saturation: float, hue: float) -> np.ndarray:
    """(3, 3), from RGB to RGB: the distance from grey times `saturation`, and `hue` turned by so many degrees."""
    cos, sin = saturation * np.cos(np.radians(hue)), saturation * np.sin(np.radians(hue))
    return np.linalg.inv(YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ YIQ


def transform_colours(image: Tensor, matrix: np.ndarray, offset: float) -> Tensor:
    """(3, h, w) uint8: matrix (3, 3) times each pixel, plus `offset` grey levels, rounded and cut to 0..255.

    In integers, so that every processor gives the same bytes.
    """
    scale = 1 << FRACTION_BITS
    factors, constant = np.rint(matrix * scale).astype(int).tolist(), round((offset + 0.5) * scale)
    red, green, blue = image.contiguous().to(torch.int32)
    pixels = torch.empty((*image.shape[1:], 3), dtype=torch.uint8)
    for channel, (of_red, of_green, of_blue) in enumerate(factors):
        value = (red * of_red).add_(green * of_green).add_(blue * of_blue).add_(constant)
        pixels[..., channel] = value.bitwise_right_shift_(FRACTION_BITS).clamp_(0, 255)
    return pixels.permute(2, 0, 1)
