"""Boxes with their names on an image, readable at any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageColor, ImageDraw, ImageFont

from litedetr.data import Categories
from litedetr.drawing.fonts import font_file, legible
from litedetr.structures import Detections

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")
MIN_SIDE = 360  # a smaller image is enlarged to it, so that the text does not hide the objects
MAX_ENLARGED = 8192  # but no side beyond this: a strip of 1x2000 pixels would become one of 360x720,000
FONT_SHARE, MIN_FONT = 1 / 45, 12  # of the geometric mean of the sides; pixels
BRIGHT = 140  # luma above which text is black

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw."""

    bbox: Box  # (x, y, width, height) in pixels
    text: str  # what stands at it
    colour: str  # as Pillow names it


def labelled_boxes(detections: Detections, categories: Categories) -> list[LabelledBox]:
    """Names and scores of detections, worst first, so that the best are drawn on top."""
    boxes = [
        LabelledBox(bbox, f"{categories.names[label]} {score:.2f}", colour_of(label))
        for bbox, label, score in detections.rows()
    ]
    return boxes[::-1]


def colour_of(label: int) -> str:
    return COLOURS[label % len(COLOURS)]


def draw_boxes(image: Image.Image, boxes: Iterable[LabelledBox]) -> Image.Image:
    """A copy of an RGB image with boxes and labels; small images are enlarged, lines and letters follow the size."""
    scale = max(1.0, min(MIN_SIDE / min(image.size), MAX_ENLARGED / max(image.size)))
    picture = image.copy()
    if scale > 1:
        picture = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    boxes, pen = list(boxes), _Pen(picture)
    for box in boxes:
        pen.outline(_scaled(box.bbox, scale), box.colour)
    for box in boxes:  # after all outlines, which would run through the letters
        pen.label(_scaled(box.bbox, scale), box.text, box.colour)
    return picture


def _scaled(bbox: Box, scale: float) -> Box:
    """(x1, y1, x2, y2) in the picture's pixels."""
    x, y, width, height = (side * scale for side in bbox)
    return x, y, x + width, y + height


class _Pen:
    """Draws on one picture and remembers where labels stand, so that the next one finds a free place."""

    def __init__(self, picture: Image.Image) -> None:
        self.size = picture.size
        self.letters = max(MIN_FONT, round((picture.width * picture.height) ** 0.5 * FONT_SHARE))
        self.draw = ImageDraw.Draw(picture)
        self.line = max(2, round(self.letters / 7))
        self.margin = max(2, round(self.letters / 6))
        self.taken: list[Box] = []

    def outline(self, corners: Box, colour: str) -> None:
        """Sides beyond the picture are drawn along its edge."""
        last = (self.size[0] - 1, self.size[1] - 1) * 2
        inside = tuple(min(max(side, 0), most) for side, most in zip(corners, last, strict=True))
        self.draw.rectangle(inside, outline=colour, width=self.line)

    def label(self, corners: Box, text: str, colour: str) -> None:
        text = legible(text)
        font = _font(font_file(text), self.letters)
        text = self._shortened(text, font)
        place = self._place(corners, text, font)
        self.taken.append(place)
        self.draw.rectangle(place, fill=colour)
        red, green, blue = ImageColor.getrgb(colour)[:3]
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > BRIGHT else "white"
        self.draw.text((place[0] + self.margin, place[1] + self.margin), text, font=font, fill=ink, anchor="lt")

    def _shortened(self, text: str, font: ImageFont.FreeTypeFont) -> str:
        """A text too long for the picture without its middle: the score at the end stays."""
        room = self.size[0] - 1 - 2 * self.margin
        kept = int(len(text) * room / max(font.getlength(text), 1))
        shortened = text
        while kept > 0 and font.getlength(shortened) > room:
            shortened, kept = f"{text[: kept // 2]}...{text[len(text) - kept // 2 :]}", kept - 1
        return shortened

    def _place(self, corners: Box, text: str, font: ImageFont.FreeTypeFont) -> Box:
        """The first free place for a label, or the one that covers least of the others."""
        left, top, right, bottom = self.draw.textbbox((0, 0), text, font=font, anchor="lt")
        width, height = right - left + 2 * self.margin, bottom - top + 2 * self.margin
        places = [self._inside(x, y, width, height) for x, y in _candidates(corners, width, height)]
        return min(places, key=lambda place: sum(_overlap(place, other) for other in self.taken))  # the first of equals

    def _inside(self, x: float, y: float, width: float, height: float) -> Box:
        """Moved into the picture."""
        x = max(0, min(x, self.size[0] - 1 - width))
        y = max(0, min(y, self.size[1] - 1 - height))
        return x, y, x + width, y + height


def _candidates(corners: Box, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Upper left corners of a label: above the box, inside it, below it, each at its left and its right end."""
    x1, y1, x2, y2 = corners
    for y in (y1 - height, y1, y2, y2 - height):
        yield x1, y
        yield x2 - width, y


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
