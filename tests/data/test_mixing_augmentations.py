"""Augmentations that move objects: each box stays on its object, and nothing is left that could not be learned."""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch
from augmentation_helpers import coloured, extent, noise, one_after_the_other, random_source
from hypothesis import given, settings
from hypothesis import strategies as st

from litedetr.data.augmentations import AUGMENTATIONS, iou_crop, mixup, mosaic, zoom_out
from litedetr.data.augmentations.windows import cut, random_window
from litedetr.data.transforms import LabelledImage

SIZES = [(128, 128), (160, 120), (90, 140)]
MOVING = [zoom_out, iou_crop, mosaic, mixup]


def three_objects(size: tuple[int, int]) -> LabelledImage:
    width, height = size
    boxes = {0: (5, 8, width // 2, height // 3), 1: (width // 2 + 4, 12, width - 9, height - 20)}
    return coloured(size, boxes | {2: (12, height // 2, width // 3, height - 6)})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", [zoom_out, iou_crop])
def test_boxes_stay_on_the_objects_of_one_image(change, size):
    found = Counter()
    for seed in range(60):
        changed = change(three_objects(size), random_source(seed))
        assert changed.size == size
        for box, label in zip(changed.boxes.tolist(), changed.labels.tolist(), strict=True):
            assert box == pytest.approx(extent(changed.image, label), abs=1)
        found.update(changed.labels.tolist())
    assert min(found[label] for label in (0, 1, 2)) > 15


@pytest.mark.parametrize("size", SIZES)
def test_boxes_stay_on_the_objects_of_a_mosaic(size):
    """Four images, of which one has no object; the others have one each, of other sizes and proportions."""
    first = coloured(size, {0: (20, 15, 75, 80)})
    others = [coloured((70, 50), {1: (10, 10, 50, 40)}), coloured((200, 300), {2: (30, 40, 180, 250)}), noise((30, 30))]
    others[2].image.zero_()
    found, places = Counter(), set()
    for seed in range(120):
        changed = mosaic(first, one_after_the_other(seed, others))
        assert changed.size == size
        for box, label in zip(changed.boxes.tolist(), changed.labels.tolist(), strict=True):
            assert box == pytest.approx(extent(changed.image, label), abs=1)
        found.update(changed.labels.tolist())
        places |= {(bool(x > size[0] / 2), bool(y > size[1] / 2)) for x, y, _, _ in changed.boxes[:1].tolist()}
    assert min(found[label] for label in (0, 1, 2)) > 60
    assert len(places) == 4  # the first image comes to every corner


def test_a_mosaic_has_no_empty_pixel_and_nothing_enlarged_if_images_have_one_size():
    """White images: a gap would be of any value. Widths of stripes tell the scale: 10 pixels or less."""
    white = LabelledImage(torch.full((3, 60, 80), 255, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long())
    stripes = LabelledImage(
        (torch.arange(80) % 20 < 10).mul(255).to(torch.uint8).expand(3, 60, 80).contiguous(), white.boxes, white.labels
    )
    for seed in range(40):
        assert mosaic(white, one_after_the_other(seed, [white] * 3)).image.min() == 255
        row = mosaic(white, one_after_the_other(seed, [stripes, white, white])).image[0, :, :] < 128
        longest = max(len(run) for line in row.int().tolist() for run in "".join(map(str, line)).split("0"))
        assert 3 <= longest <= 11


def test_a_mosaic_has_up_to_four_times_as_many_objects():
    item = coloured((128, 128), {0: (60, 60, 68, 68), 1: (30, 30, 38, 38), 2: (90, 30, 98, 38)})
    counts = [len(mosaic(item, random_source(seed, [item])).labels) for seed in range(100)]
    assert np.mean(counts) > 4.5
    assert max(counts) > 9


@pytest.mark.parametrize("size", SIZES)
def test_boxes_stay_on_the_objects_of_both_images(size):
    first, other = coloured(size, {0: (20, 15, 75, 80)}), coloured((140, 70), {1: (50, 20, 100, 60)})
    kept = 0
    for seed in range(40):
        changed = mixup(first, random_source(seed, [other]))
        assert changed.size == size
        assert changed.boxes[0].tolist() == [20, 15, 75, 80]
        kept += len(changed.labels) == 2
        for box, label in zip(changed.boxes.tolist(), changed.labels.tolist(), strict=True):
            assert box == pytest.approx(extent(changed.image, label), abs=2 if label else 0)  # enlarged up to twofold
    assert kept > 20


def test_mixed_pixels_are_the_weighted_mean_of_both():
    first, other = noise((40, 30), [(1, 2, 20, 20)], seed=1), noise((40, 30), [(5, 5, 9, 9), (0, 0, 30, 30)], seed=2)
    shares = set()
    for seed in range(30):
        changed = mixup(first, random_source(seed, [other]))
        assert changed.boxes.tolist() == [[1, 2, 20, 20], [5, 5, 9, 9], [0, 0, 30, 30]]
        assert changed.labels.tolist() == [0, 0, 1]
        one, two = first.image.long(), other.image.long()
        fitting = [k for k in range(115, 142) if torch.equal(((256 - k) * one + k * two) // 256, changed.image.long())]
        assert len(fitting) == 1
        shares.update(fitting)
    assert len(shares) > 10


def test_zooming_out_shrinks_up_to_fourfold_on_the_mean_colour():
    whole = LabelledImage(
        torch.full((3, 80, 120), 255, dtype=torch.uint8), torch.tensor([[0.0, 0, 120, 80]]), torch.zeros(1).long()
    )
    widths = []
    for seed in range(200):
        changed = zoom_out(whole, random_source(seed))
        x1, y1, x2, y2 = map(round, changed.boxes[0].tolist())
        assert (changed.image[:, y1:y2, x1:x2] == 255).all()
        outside = changed.image.clone()
        outside[:, y1:y2, x1:x2] = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]
        assert outside.flatten(1).unique(dim=1).T.tolist() == [[124, 116, 104]]
        widths.append(x2 - x1)
    assert 30 <= min(widths) < 33
    assert 110 < max(widths) <= 120


def test_a_crop_overlaps_an_object_as_much_as_was_drawn(monkeypatch):
    """As the windows say that it cuts, around the only object."""
    module = import_module("litedetr.data.augmentations.iou_crop")  # the function has its name
    item = coloured((120, 120), {0: (30, 30, 90, 90)})
    for least in (0.3, 0.5, 0.7):
        monkeypatch.setattr(module, "LEAST_IOU", (least,))
        windows = []
        monkeypatch.setattr(
            module, "cut", lambda item, window, *rest, windows=windows, **kept: windows.append(window) or item
        )
        for seed in range(100):
            iou_crop(item, random_source(seed))
        ious = []
        for left, top, width, height in windows:
            shared = max(0, min(left + width, 90) - max(left, 30)) * max(0, min(top + height, 90) - max(top, 30))
            ious.append(shared / (width * height + 3600 - shared))
            assert max(width, height) <= 2 * min(width, height)
            assert min(left, top) >= 0
            assert max(left + width, top + height) <= 120
            assert left < 60 < left + width
            assert top < 60 < top + height
        assert len(ious) > 20
        assert min(ious) >= least
        assert min(ious) < least + 0.1


def test_a_crop_keeps_the_objects_whose_centre_it_holds():
    """Of two objects the large one is cut to less than a fifth, or keeps its centre, or is seen without a box."""
    item = coloured((120, 120), {0: (0, 40, 60, 80), 1: (70, 50, 90, 70)})
    boxless = 0
    for seed in range(300):
        changed = iou_crop(item, random_source(seed))
        seen = extent(changed.image, 0)
        if changed.labels.tolist() == [1] and seen is not None:
            scale = (changed.boxes[0, 2] - changed.boxes[0, 0]).item() / 20  # of the object that is seen whole
            whole_width = changed.boxes[0, 0] > 0 and changed.boxes[0, 2] < 120
            assert not whole_width or seen[2] - seen[0] <= 30 * scale + 1  # half of its width at most
            boxless += whole_width and seen[2] - seen[0] > 12 * scale
    assert boxless > 4


def test_a_window_keeps_boxes_of_which_a_fifth_is_left():
    boxes = [(0, 0, 20, 10), (0, 10, 19, 20), (30, 30, 40, 40), (50, 0, 60, 10), (14, 20, 17, 21)]
    part = cut(noise((64, 64), boxes), (15, 0, 25, 64), (50, 64))
    assert part.labels.tolist() == [0, 1, 2]  # a fourth, 4 of 19, all; the others: none, lower than two pixels
    assert part.boxes.tolist() == [[0, 0, 10, 10], [0, 10, 8, 20], [30, 30, 50, 40]]
    assert cut(noise((64, 64), boxes), (17, 0, 25, 64), (25, 64)).labels.tolist() == [2]  # 3 of 20, 2 of 19
    kept = torch.tensor([False, True, True, True, True])
    assert cut(noise((64, 64), boxes), (17, 0, 25, 64), (25, 64), kept).labels.tolist() == [1, 2]
    assert part.size == (50, 64)


def test_a_window_that_is_not_resized_has_the_very_pixels():
    item = noise((64, 48))
    part = cut(item, (10, 7, 20, 30), (20, 30))
    assert torch.equal(part.image, item.image[:, 7:37, 10:30])


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((40, 30), 1.0, (40, 30)), ((40, 30), 0.5, (80, 60)), ((60, 30), 0.1, (100, 50)), ((10, 90), 0.5, (9, 80))],
)
def test_a_random_window_has_the_proportions_of_its_place(size, scale, expected):
    """The last two would be larger than the image of 100x80."""
    windows = [random_window(noise((100, 80)), size, scale, np.random.default_rng(seed)) for seed in range(50)]
    assert {window[2:] for window in windows} == {expected}
    lefts, tops = {window[0] for window in windows}, {window[1] for window in windows}
    assert max(lefts) <= 100 - expected[0]
    assert max(tops) <= 80 - expected[1]
    assert len(lefts) > min(100 - expected[0], 10)


@st.composite
def labelled_images(draw) -> LabelledImage:
    """Of any size from one pixel, with boxes inside, thin ones too."""
    width, height = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x, y = draw(st.tuples(st.floats(0, width - 0.02), st.floats(0, height - 0.02)))
        boxes.append((x, y, draw(st.floats(x + 0.01, width)), draw(st.floats(y + 0.01, height))))
    return noise((width, height), boxes, draw(st.integers(0, 5)))


@pytest.mark.parametrize("name", [*AUGMENTATIONS])
@settings(max_examples=60, deadline=None)
@given(items=st.lists(labelled_images(), min_size=2, max_size=3), seed=st.integers(0, 2**32))
def test_whatever_comes_in_boxes_lie_inside_and_have_an_area(name, items, seed):
    first, *others = items
    before = first.image.clone(), first.boxes.clone()
    changed = AUGMENTATIONS[name](first, random_source(seed, others, flip=0.5))
    assert torch.equal(first.image, before[0])
    assert torch.equal(first.boxes, before[1])
    assert changed.image.dtype == torch.uint8
    assert changed.boxes.dtype == torch.float32
    assert changed.labels.dtype == torch.int64
    assert changed.size == first.size
    assert changed.boxes.shape == (len(changed.labels), 4)
    assert (changed.boxes[:, 2:] > changed.boxes[:, :2]).all()
    assert (changed.boxes >= 0).all()
    assert (changed.boxes <= torch.tensor(changed.size).repeat(2) + 1e-3).all()
    again = AUGMENTATIONS[name](first, random_source(seed, others, flip=0.5))
    assert torch.equal(again.image, changed.image)
    assert torch.equal(again.boxes, changed.boxes)


def test_other_images_are_any_of_the_set_and_flipped_as_often_as_the_first():
    items = [coloured((20, 10), {label: (1, 2, 5, 6)}) for label in range(3)]
    source = random_source(0, items, flip=0.25)
    others = [source.other() for _ in range(400)]
    assert all(100 < count < 170 for count in Counter(other.labels.item() for other in others).values())
    flipped = [other for other in others if other.boxes[0].tolist() == [15, 2, 19, 6]]
    assert 70 < len(flipped) < 130
    assert all(extent(other.image, other.labels.item()) == (15, 2, 19, 6) for other in flipped)
