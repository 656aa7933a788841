"""Boxes and labels on pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from litedetr.data import Categories
from litedetr.drawing.draw_boxes import COLOURS, LabelledBox, _overlap, _Pen, draw_boxes, labelled_boxes
from litedetr.engine.coco_metrics import DETECTION
from litedetr.engine.sample_pictures import HEADING, _heading, sample_picture
from litedetr.structures import Detections


def pixels_of(picture: Image.Image, colour: str) -> np.ndarray:
    """(N, 2) rows and columns that have exactly this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere((np.asarray(picture) == wanted).all(-1))


@pytest.mark.parametrize("size", [(400, 400), (4000, 3000)])
def test_the_outline_lies_on_the_box(size: tuple[int, int]):
    width, height = size
    box = LabelledBox((width / 4, height / 2, width / 2, height / 4), "", "#ff0000")
    found = pixels_of(draw_boxes(Image.new("RGB", size), [box]), "#ff0000")
    rows, columns = found[:, 0], found[:, 1]
    assert (columns.min(), columns.max()) == (width // 4, 3 * width // 4)
    assert rows.max() == 3 * height // 4


def test_a_small_image_is_enlarged_with_its_boxes():
    picture = draw_boxes(Image.new("RGB", (40, 20)), [LabelledBox((10, 5, 20, 10), "", "#ff0000")])
    assert picture.size == (720, 360)
    found = pixels_of(picture, "#ff0000")
    assert (found[:, 1].min(), found[:, 1].max(), found[:, 0].max()) == (180, 540, 270)


@pytest.mark.parametrize("size", [(1, 2000), (30000, 2)])
def test_a_strip_is_enlarged_no_further_than_memory_goes(size: tuple[int, int]):
    picture = draw_boxes(Image.new("RGB", size), [LabelledBox((0, 0, 1, 1), "cat", "#ff0000")])
    assert max(picture.size) == max(8192, *size)


def test_letters_follow_the_size_of_the_picture():
    small, large = (_Pen(Image.new("RGB", size)).letters for size in ((640, 480), (4000, 3000)))
    assert large > 5 * small
    assert small >= 12


def test_labels_keep_out_of_each_others_way():
    pen = _Pen(Image.new("RGB", (640, 480)))
    for _ in range(6):
        pen.label((200, 200, 500, 300), "zebra 0.95", "#ff0000")
    pairs = [(a, b) for i, a in enumerate(pen.taken) for b in pen.taken[:i]]
    assert all(_overlap(a, b) == 0 for a, b in pairs)


@pytest.mark.parametrize("corners", [(0, 0, 30, 10), (600, 460, 640, 480), (-50, -50, 700, 600)])
def test_labels_stay_in_the_picture(corners: tuple[int, ...]):
    pen = _Pen(Image.new("RGB", (640, 480)))
    pen.label(corners, "Größe 0.95", "#ff0000")
    x1, y1, x2, y2 = pen.taken[0]
    assert min(x1, y1) >= 0
    assert (x2 < 640, y2 < 480) == (True, True)


def test_names_scores_and_colours_of_detections():
    found = Detections(torch.tensor([0.9, 0.456]), torch.tensor([1, 0]), torch.tensor([[1.0, 2, 4, 8], [0.0, 0, 1, 1]]))
    worst, best = labelled_boxes(found, Categories(("cat", "dog"), (3, 7)))
    assert (best.text, best.bbox, best.colour) == ("dog 0.90", (1, 2, 3, 6), COLOURS[1])
    assert worst.text == "cat 0.46"


def test_an_outline_beyond_the_picture_runs_along_its_edge():
    box = LabelledBox((-50, -50, 900, 900), "", "#ff0000")
    found = pixels_of(draw_boxes(Image.new("RGB", (400, 500)), [box]), "#ff0000")
    assert (found.min(0).tolist(), found.max(0).tolist()) == ([0, 0], [499, 399])


def test_an_empty_panel_says_why():
    truth = COCO()
    truth.dataset = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    truth.createIndex()
    image = Image.new("RGB", (400, 400))

    def heading(*scores: float) -> np.ndarray:
        rows = np.array([(1, 1, (0, 0, 9, 9), score) for score in scores], DETECTION)
        return np.asarray(sample_picture(image, 1, rows, truth))[:HEADING, :400]

    assert not np.array_equal(heading(0.2, 0.1), heading(0.3, 0.1))
    assert _heading(np.array([0.1, 0.1234])) == "predictions: none of score >= 0.3 (best 0.12)"
    assert _heading(np.array([])) == "predictions: none of score >= 0.3 (no detection)"
    assert _heading(np.array([0.1, 0.3])) == "predictions"
    drawn = heading(0.2)
    assert (drawn[:, -20:] == 255).all()  # it has room
    assert (drawn < 128).any()
