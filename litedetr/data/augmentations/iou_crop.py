"""A window around objects: large objects, and cut ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from litedetr.boxes import box_iou
from litedetr.data.augmentations.registry import augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.augmentations.windows import cut
from litedetr.data.transforms import LabelledImage

LEAST_IOU = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # of the window with some object; None: the image as it is
SIDE = (0.3, 1.0)  # of the window, relative to the image
MOST_ASPECT = 2.0  # longer side of the window over its shorter one
TRIALS = 50


@augmentation
def iou_crop(item: LabelledImage, source: Source) -> LabelledImage:
    """A random window that overlaps an object by a random least IoU (SSD, Liu et al., 2016, section 2.2).

    As in SSD the objects whose centre lies in the window stay, and the window is resized to the size that the image
    had, whatever its proportions. Without an object, or if none of TRIALS windows fits, the image stays as it is.
    """
    least = LEAST_IOU[int(source.rng.integers(len(LEAST_IOU)))]
    if least is None or not len(item.boxes):
        return item
    windows = _windows(item.size, source.rng)
    inside = _centres_inside(windows, item.boxes)
    fitting = inside.any(dim=1) & (box_iou(windows[:, None], item.boxes) >= least).any(dim=1)
    if not fitting.any():
        return item
    chosen = int(fitting.int().argmax())  # the first
    left, top, right, bottom = map(int, windows[chosen].tolist())
    return cut(item, (left, top, right - left, bottom - top), item.size, kept=inside[chosen])


def _windows(size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """(T, 4) xyxy in whole pixels, those of at most TRIALS that are not too long."""
    full = np.array(size)
    lengths = np.maximum(np.rint(rng.uniform(*SIDE, (TRIALS, 2)) * full), 1)
    corners = np.floor(rng.random((TRIALS, 2)) * (full - lengths + 1))
    fitting = lengths.max(axis=1) <= MOST_ASPECT * lengths.min(axis=1)
    return torch.from_numpy(np.hstack([corners, corners + lengths])[fitting]).float()


def _centres_inside(windows: Tensor, boxes: Tensor) -> Tensor:
    """(T, N) bool: whether window t holds the centre of box n."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(dim=2)
