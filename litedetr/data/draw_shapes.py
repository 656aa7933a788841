"""Scenes of the embedded data set, drawn with Pillow.

Colour is a hint, not an answer: one shape in five has any colour. Each class has a neighbour that it is easily
taken for, so that a detector has to look at shape:

- circle and ring share their outline and differ only by the hole;
- square and triangle, both a little tilted, share a flat base and straight edges and differ by what is above it;
- star has corners like both, and a small one looks like a circle.
"""

from __future__ import annotations

import math
from colorsys import hsv_to_rgb
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "ring", "square", "triangle", "star")

_OVERSAMPLING = 4
_SMALLEST, _LARGEST = 16.0, 150.0  # larger extent of a shape in pixels
_LARGEST_SHARE = 0.85  # of the image's longer side
_TILT = math.radians(15)  # largest rotation from upright
_HOLE = 0.55  # radius of a ring's hole over the ring's own
_LEAST_VISIBLE = 0.5  # share of a shape that the image's edge and later shapes leave to see
_LEAST_CONTRAST = 90.0  # distance in RGB from what a shape is drawn on
_PLACEMENT_ATTEMPTS = 12
_TYPICAL_SHARE = 0.8  # of shapes whose colour is a hint at what they are
_HUE_SPREAD = 0.08  # of such a colour around its shape's hue, in turns
_COLOUR_ATTEMPTS = 100
_BACKGROUND_SATURATION = 0.4


@dataclass(frozen=True)
class Scene:
    """A drawn image and its objects."""

    image: Image.Image  # RGB
    shapes: tuple[str, ...]  # the N objects' classes
    boxes: np.ndarray  # (N, 4) float64 xyxy in pixels, clipped to the image


@dataclass(frozen=True)
class Outline:
    """A shape of a size and rotation."""

    vertices: np.ndarray  # (V, 2) in pixels, relative to the centre of the tight box
    extent: tuple[float, float]  # (width, height) of that box
    hole: float  # radius of a round hole in the middle, 0 for none

    @classmethod
    def of(cls, shape: str, size: float, angle: float) -> Outline:
        """`size`: the larger side of the tight box; `angle` in radians."""
        unit = _unit_polygon(shape)
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        vertices = unit @ rotation
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        scale = size / (high - low).max()
        width, height = (high - low) * scale
        hole = _HOLE * size / 2 if shape == "ring" else 0.0
        return cls((vertices - (low + high) / 2) * scale, (float(width), float(height)), hole)

    def mask(self, centre: tuple[float, float], size: tuple[int, int]) -> Image.Image:
        """Coverage, anti-aliased, as an 8-bit image of `size` (width, height)."""
        width, height = size
        half_width, half_height = (side / 2 + 1 for side in self.extent)
        left, top = max(math.floor(centre[0] - half_width), 0), max(math.floor(centre[1] - half_height), 0)
        right, bottom = min(math.ceil(centre[0] + half_width), width), min(math.ceil(centre[1] + half_height), height)
        patch = Image.new("L", ((right - left) * _OVERSAMPLING, (bottom - top) * _OVERSAMPLING))
        draw = ImageDraw.Draw(patch)
        middle = (np.array(centre) - (left, top)) * _OVERSAMPLING
        # Pillow names pixels by their centres: the point x lies at pixel x - 0.5.
        draw.polygon([tuple(p) for p in (middle + self.vertices * _OVERSAMPLING - 0.5).tolist()], fill=255)
        if self.hole:
            radius = self.hole * _OVERSAMPLING
            draw.ellipse([*(middle - radius - 0.5), *(middle + radius - 0.5)], fill=0)
        mask = Image.new("L", size)
        mask.paste(patch.reduce(_OVERSAMPLING), (left, top))
        return mask


def draw_scene(rng: np.random.Generator, sides: tuple[int, int], max_objects: int) -> Scene:
    """One image whose sides lie in the range `sides`, with 1 to `max_objects` shapes, or, for 3 % of them, none.

    Larger shapes lie below smaller ones. A shape that finds no place where enough of it, and of those below it,
    stays visible is left out.
    """
    width, height = (int(side) for side in rng.integers(sides[0], sides[1], size=2, endpoint=True))
    canvas = _background(rng, width, height)
    count = 0 if rng.random() < 0.03 else int(rng.integers(1, max_objects, endpoint=True))
    largest = min(_LARGEST, _LARGEST_SHARE * max(width, height))
    sizes = np.sort(np.exp(rng.uniform(math.log(_SMALLEST), math.log(largest), size=count)))[::-1]
    placed = _Placed(canvas)
    for size in sizes.tolist():
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        placed.try_to_add(shape, Outline.of(shape, size, rng.uniform(-_TILT, _TILT)), rng)
    noisy = np.asarray(canvas, dtype=np.float32) + 5 * rng.standard_normal((height, width, 3), dtype=np.float32)
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return Scene(image, tuple(placed.shapes), np.array(placed.boxes).reshape(-1, 4))


class _Placed:
    """The shapes drawn on a canvas so far, and how much of each is still to be seen."""

    def __init__(self, canvas: Image.Image) -> None:
        self._canvas = canvas
        self.shapes: list[str] = []
        self.boxes: list[np.ndarray] = []
        self._visible: list[np.ndarray] = []  # (height, width) coverage in [0, 1] that is left of each
        self._areas: list[float] = []  # of the full shape, in the image or not

    def try_to_add(self, shape: str, outline: Outline, rng: np.random.Generator) -> None:
        size = np.array(self._canvas.size)
        for _ in range(_PLACEMENT_ATTEMPTS):
            centre = rng.uniform(0, 1, size=2) * size
            corners = np.concatenate([centre - np.divide(outline.extent, 2), centre + np.divide(outline.extent, 2)])
            box = corners.clip(0, np.tile(size, 2))
            share = np.prod(box[2:] - box[:2]) / np.prod(outline.extent)
            if share < _LEAST_VISIBLE:
                continue
            mask = outline.mask((float(centre[0]), float(centre[1])), self._canvas.size)
            coverage = np.asarray(mask, dtype=np.float64) / 255
            if self._leaves_enough(coverage):
                below = coverage.ravel() @ np.asarray(self._canvas, dtype=np.float64).reshape(-1, 3) / coverage.sum()
                self._canvas.paste(_colour(shape, below, rng), mask=mask)
                self._cover(coverage, coverage.sum() / share)
                self.shapes.append(shape)
                self.boxes.append(box)
                return

    def _cover(self, coverage: np.ndarray, full: float) -> None:
        """Let a shape, whose whole area is `full` pixels, hide what it covers."""
        self._visible = [*(visible * (1 - coverage) for visible in self._visible), coverage]
        self._areas.append(full)

    def _leaves_enough(self, coverage: np.ndarray) -> bool:
        return all(
            np.vdot(visible, 1 - coverage) >= _LEAST_VISIBLE * full
            for visible, full in zip(self._visible, self._areas, strict=True)
        )


def _unit_polygon(shape: str) -> np.ndarray:
    """Vertices (V, 2) on the unit circle, and for a star inside it too."""
    corners = {"square": 4, "triangle": 3, "star": 10}.get(shape, 96)
    first = math.pi / 4 if shape == "square" else -math.pi / 2  # upright: a flat side below, a tip above
    angles = np.arange(corners) * (2 * math.pi / corners) + first
    radii = np.ones(corners)
    if shape == "star":
        radii[1::2] = 0.45
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def _colour(shape: str, below: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    """One that stands out from `below`: mostly near the shape's own hue, otherwise any."""
    typical = rng.random() < _TYPICAL_SHARE
    hue = SHAPES.index(shape) / len(SHAPES)
    for _ in range(_COLOUR_ATTEMPTS):
        if typical:
            turn = (hue + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 1
            colour = 255 * np.array(hsv_to_rgb(turn, rng.uniform(0.4, 1), rng.uniform(0.4, 1)))
        else:
            colour = rng.uniform(0, 255, size=3)
        if np.linalg.norm(colour - below) >= _LEAST_CONTRAST:
            break
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A gradient between two pale colours, low-frequency noise over it, and a few lines that are no object."""
    colours = rng.integers(30, 226, size=(2, 3)).astype(np.float32)
    grey = colours.mean(axis=1, keepdims=True)
    first, second = grey + _BACKGROUND_SATURATION * (colours - grey)
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)
    ramp = ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)) / math.sqrt(2) + 0.5
    coarse = rng.normal(0, 15, size=(3, 5, 5)).astype(np.float32)
    smooth = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
    pixels = first + ramp[..., None] * (second - first) + np.stack(smooth, axis=-1)
    canvas = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for _ in range(int(rng.integers(0, 5))):
        _draw_line(canvas, rng)
    return canvas


def _draw_line(canvas: Image.Image, rng: np.random.Generator) -> None:
    mask = Image.new("L", (canvas.width * 2, canvas.height * 2))
    ends = rng.uniform(0, 1, size=(2, 2)) * mask.size
    ImageDraw.Draw(mask).line([tuple(end) for end in ends.tolist()], fill=255, width=int(rng.integers(2, 7)))
    red, green, blue = (int(value) for value in rng.integers(0, 256, size=3))
    canvas.paste((red, green, blue), mask=mask.reduce(2))
