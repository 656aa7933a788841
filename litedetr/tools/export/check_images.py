"""The images that a file is checked on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from litedetr.data import DataError, build_eval_dataset, find_images, read_image, to_pixels
from litedetr.engine.checkpoint import LoadedDetector
from litedetr.paths import user_path
from litedetr.settings import ConfigError, require
from litedetr.tools.convert import NO_ROOT

NUMBER = 16  # at most, taken in turn


def images_to_check_on(source: str, loaded: LoadedDetector, say: Callable[[str], None]) -> str:
    """`source`, the setting check_images, but noise in place of the validation images that a converted checkpoint has
    never had.
    """
    if source == "validation" and loaded.config.data.root == NO_ROOT:
        say("a converted checkpoint knows no images: checked on noise; check_images=<folder> takes some")
        return "noise"
    return source


def check_batches(source: str, loaded: LoadedDetector, sizes: list[tuple[int, int, int]]) -> list[Tensor]:
    """A batch (B, 3, H, W) uint8 for each of the (images, height, width).

    source: `validation`, the images the checkpoint was evaluated on; `noise`; or a folder of images.
    """
    if source == "noise":
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(256, (b, 3, h, w), dtype=torch.uint8, generator=generator) for b, h, w in sizes]
    images = cycle(_validation_images(loaded) if source == "validation" else _images_in(user_path(source)))
    bilinear = Image.Resampling.BILINEAR
    return [torch.stack([to_pixels(next(images).resize((w, h), bilinear)) for _ in range(b)]) for b, h, w in sizes]


def _validation_images(loaded: LoadedDetector) -> list[Image.Image]:
    try:
        dataset = build_eval_dataset(loaded.config.data, loaded.config.seed, loaded.categories)
    except (ConfigError, DataError) as error:
        expected = "noise or a folder of images, as the validation images of the checkpoint cannot be read"
        raise ConfigError(f"check_images: expected {expected} ({error})") from error
    return [dataset.load_image(image_id) for image_id in dataset.image_ids[:NUMBER]]


def _images_in(folder: Path) -> list[Image.Image]:
    require(folder.is_dir(), "check_images", "validation, noise or a folder of images", str(folder))
    return [read_image(path) for path in find_images(str(folder)).paths[:NUMBER]]
