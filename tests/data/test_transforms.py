from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from augmentation_helpers import random_source
from PIL import Image, ImageDraw

from litedetr.data import TransformConfig, read_images, to_pixels, transforms
from litedetr.data.augmentations import augment
from litedetr.data.transforms import LabelledImage, crop, flip, for_evaluation, resize, resized_size

RED = (255, 0, 0)
DETR = TransformConfig(
    (48, 64, 80), 133, 80, 0.5, crop=True, crop_probability=0.5, crop_resize_sides=(40, 60), crop_range=(38, 60)
)


def labelled(width: int, height: int, box: tuple[int, int, int, int]) -> LabelledImage:
    """A red rectangle on black; `box` is (x1, y1, x2, y2), its end not included."""
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=RED)
    return LabelledImage(to_pixels(image), torch.tensor([box], dtype=torch.float32), torch.tensor([3]))


def red_box(image: torch.Tensor) -> tuple[float, ...]:
    """Tight xyxy box of the pixels that are at least half red."""
    rows, columns = np.nonzero(image[0].numpy() > 127)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize(
    ("size", "side", "max_side", "expected"),
    [
        ((640, 480), 800, 1333, (1066, 800)),
        ((480, 640), 800, 1333, (800, 1066)),
        ((640, 480), 480, 1333, (640, 480)),
        ((500, 375), 600, None, (800, 600)),
        ((1000, 300), 800, 1333, (1333, 400)),  # the cap decides: 1333 * 300 / 1000 = 399.9
        ((300, 1000), 800, 1333, (400, 1333)),
        ((2000, 101), 800, 1333, (1326, 67)),
        ((2000, 102), 800, 1333, (1333, 68)),  # rounded up to 68, and never beyond the cap
        ((5000, 1), 800, 1333, (1333, 1)),
    ],
)
def test_resized_size(size: tuple[int, int], side: int, max_side: int | None, expected: tuple[int, int]) -> None:
    assert resized_size(size, side, max_side) == expected


@pytest.mark.parametrize("size", [(90, 60), (60, 90)])
def test_boxes_stay_on_the_object_through_each_transform(size: tuple[int, int]) -> None:
    item = labelled(*size, (10, 20, 40, 50))
    for changed in (flip(item), resize(item, 120), resize(item, 37), crop(item, 15, 12, (44, 30)), flip(flip(item))):
        assert changed.boxes[0].tolist() == pytest.approx(red_box(changed.image), abs=1)
        assert changed.labels.tolist() == [3]


def test_boxes_follow_the_rounded_size_of_each_side() -> None:
    changed = resize(labelled(30, 20, (0, 0, 30, 20)), 7)
    assert changed.size == (10, 7)
    assert changed.boxes[0].tolist() == pytest.approx([0, 0, 10, 7])


def test_boxes_stay_on_the_object_through_augmentation() -> None:
    item = labelled(120, 90, (30, 25, 80, 70))
    sizes = set()
    for seed in range(60):
        changed = augment(item, DETR, random_source(seed))
        sizes.add(changed.size)
        assert changed.boxes[0].tolist() == pytest.approx(red_box(changed.image), abs=1.5)
        assert min(changed.size) in DETR.train_sides or max(changed.size) == 133
        assert max(changed.size) <= 133
    assert len(sizes) > 20


def test_crop_clips_boxes_and_drops_those_outside() -> None:
    boxes = torch.tensor([[0, 0, 8, 8], [4, 4, 30, 14], [0, 10, 40, 20], [32, 0, 40, 9]], dtype=torch.float32)
    changed = crop(LabelledImage(to_pixels(Image.new("RGB", (40, 30))), boxes, torch.arange(4)), 8, 6, (20, 10))
    assert changed.size == (20, 10)
    assert changed.labels.tolist() == [1, 2]
    assert changed.boxes.tolist() == [[0, 0, 20, 8], [0, 4, 20, 10]]


def test_crop_window_lies_in_the_range_and_in_the_image() -> None:
    """A window drawn too large, or beyond the image, would show black where the image is white."""
    config = TransformConfig((), 1333, None, 0.0, True, 1.0, crop_resize_sides=(50,), crop_range=(40, 70))
    white = LabelledImage(to_pixels(Image.new("RGB", (100, 50), "white")), torch.zeros(0, 4), torch.zeros(0).long())
    widths, heights = set(), set()
    for seed in range(80):
        changed = augment(white, config, random_source(seed))
        assert changed.image.min() == 255
        widths.add(changed.size[0])
        heights.add(changed.size[1])
    assert min(widths) < 45
    assert 65 < max(widths) <= 70
    assert min(heights) >= 40
    assert max(heights) == 50


def test_an_image_smaller_than_the_window_is_not_cropped() -> None:
    config = TransformConfig((), 1333, None, 0.0, True, 1.0, crop_resize_sides=(20,), crop_range=(40, 70))
    item = labelled(30, 20, (5, 5, 15, 15))
    assert augment(item, config, random_source(0)).boxes.tolist() == [[5, 5, 15, 15]]


def test_flip_and_scale_come_as_often_as_configured() -> None:
    config = TransformConfig((40, 50), 500, None, 0.25, False)
    item = labelled(60, 40, (0, 0, 20, 40))
    changed = [augment(item, config, random_source(seed)) for seed in range(400)]
    assert 70 < sum(bool(c.boxes[0, 0] > 0) for c in changed) < 130
    assert set(Counter(c.size[1] for c in changed)) == {40, 50}
    assert 150 < sum(c.size[1] == 40 for c in changed) < 250


def test_native_size_is_kept_up_to_the_cap() -> None:
    config = TransformConfig((), 64, None, 0.0, False)
    source = random_source(0)
    assert augment(labelled(64, 33, (1, 1, 9, 9)), config, source).size == (64, 33)
    assert augment(labelled(128, 66, (1, 1, 9, 9)), config, source).size == (64, 33)


def test_evaluation_is_resized_only() -> None:
    item = labelled(60, 40, (0, 0, 20, 40))
    assert for_evaluation(item, DETR).boxes.tolist() == [[0, 0, 40, 80]]
    assert for_evaluation(item, TransformConfig((), 1333, None, 1.0, False)).boxes.tolist() == [[0, 0, 20, 40]]


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_a_strip_does_not_burst_the_crop(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, whole = [], read_images.resized
    monkeypatch.setattr(transforms, "resized", lambda pixels, new: sizes.append(new) or whole(pixels, new))
    always = replace(DETR, crop_probability=1.0)
    item = augment(labelled(*size, (0, 0, *size)), always, random_source(0))
    assert 133 < max(max(new) for new in sizes) <= 8192
    assert max(item.size) <= always.max_side
