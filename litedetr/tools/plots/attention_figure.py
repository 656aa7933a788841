"""The drawing of sampling locations over an image, and of weights by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from litedetr.tools.plots.attention_samples import AttentionSamples, Samples
from litedetr.tools.plots.style import FONT, display_name, level_colour, new_figure, set_labels, text_colour

OVERALL, ON_FINEST = 100, 200  # samples drawn of all levels, and of the finest two
PANEL_WIDTH, PANEL_HEIGHTS, BARS_HEIGHT, TITLE_HEIGHT = 6.0, (3.0, 7.5), 2.9, 1.3  # inches
LARGEST_MARKER, SMALLEST_MARKER = 130, 18  # points squared
FADED = 0.65  # opacity of the image
MOST_WRITTEN, LEAST_WRITTEN = 13, 0.08  # layers, and the share, whose numbers have room in their bars
LONGEST_LINE = 160  # letters, of the title
MARGIN = 0.06  # around the image, of its longer side, for samples that lie outside


@dataclass(frozen=True)
class AttentionPicture:
    """What the figure shows."""

    image: Image.Image
    title: str
    sampled: AttentionSamples
    xy: tuple[float, float]  # the point whose attention is drawn, relative to the image
    box: tuple[float, float, float, float] | None  # of the object, (x1, y1, x2, y2) relative to the image


def draw_picture(picture: AttentionPicture) -> Figure:
    """Two panels over the image, two of bars."""
    low, high = PANEL_HEIGHTS
    panel = float(np.clip(PANEL_WIDTH * picture.image.height / picture.image.width, low, high))
    figure = new_figure(2 * PANEL_WIDTH + 0.5, panel + BARS_HEIGHT + TITLE_HEIGHT)
    title = "\n".join(display_name(line, LONGEST_LINE) for line in picture.title.split("\n"))
    figure.suptitle(title, fontsize=FONT["title"], x=0.01, ha="left")
    (left, right), (overall, layers) = figure.subplots(2, 2, height_ratios=[panel, BARS_HEIGHT])
    names, samples = picture.sampled.level_names, picture.sampled.samples
    _draw_samples(left, picture, samples, OVERALL, "(a) all levels")
    finest = " and ".join(reversed(names[:2]))
    _draw_samples(right, picture, samples.finest(2), ON_FINEST, f"(b) {finest}")
    _frame((left, right), picture)
    _draw_overall(overall, picture.sampled)
    _draw_layers(layers, picture.sampled)
    figure.legend(handles=_legend(picture), loc="outside lower center", ncols=8, fontsize=FONT["label"], frameon=False)
    return figure


def _draw_samples(axes: Axes, picture: AttentionPicture, samples: Samples, number: int, heading: str) -> None:
    chosen = samples.largest(number)
    width, height = picture.image.size
    # towards white, so that markers stand out whatever the image's colours
    axes.imshow(picture.image, extent=(0, width, height, 0), alpha=FADED, interpolation="bicubic", zorder=0)
    for level in np.unique(chosen.level)[::-1].tolist():  # the finest on top
        _scatter(axes, chosen, level, picture.sampled.level_names[level], picture.image.size)
    _mark_spot(axes, picture)
    share = chosen.weight.sum() / samples.weight.sum()
    kept = "all" if len(chosen) == len(samples) else f"the {len(chosen)} largest of"
    title = f"{heading}: {kept} {len(samples)} weights, {share:.1%} of their sum"
    set_labels(axes, title, x=f"outside the image: {chosen.num_outside}" if chosen.num_outside else "")


def _frame(panels: Sequence[Axes], picture: AttentionPicture) -> None:
    """The image, with a margin if samples lie outside of it; the same in all panels."""
    width, height = picture.image.size
    margin = MARGIN * max(width, height) if picture.sampled.samples.num_outside else 0
    for axes in panels:
        axes.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin), xticks=[], yticks=[])


def _scatter(axes: Axes, chosen: Samples, level: int, name: str, size: tuple[int, int]) -> None:
    """Size and opacity grow with weight; the largest come first, so that they hide no other."""
    part = chosen.where(chosen.level == level)
    strength = part.weight / chosen.weight.max()
    axes.scatter(
        part.xy[:, 0] * size[0],
        part.xy[:, 1] * size[1],
        s=SMALLEST_MARKER + (LARGEST_MARKER - SMALLEST_MARKER) * strength,
        marker=_marker(level),
        color=level_colour(name),
        alpha=0.5 + 0.45 * strength,
        edgecolors="black",
        linewidths=0.5,
        zorder=2,
    )


def _marker(level: int) -> str:
    return "^" if level == 0 else "o"


def _mark_spot(axes: Axes, picture: AttentionPicture) -> None:
    width, height = picture.image.size
    if picture.box is not None:
        x1, y1, x2, y2 = (side * scale for side, scale in zip(picture.box, (width, height) * 2, strict=True))
        for colour, line in (("black", 3.5), ("white", 1.5)):
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=line, zorder=1)
            axes.add_patch(box)
    x, y = picture.xy[0] * width, picture.xy[1] * height
    for colour, line, side in (("black", 4.5, 15), ("white", 2, 13)):
        axes.plot(x, y, marker="+", color=colour, markersize=side, markeredgewidth=line, zorder=4)


def _draw_overall(axes: Axes, sampled: AttentionSamples) -> None:
    names = list(reversed(sampled.level_names))
    shares = sampled.level_shares[::-1]
    bars = axes.bar(names, shares, color=[level_colour(name) for name in names], width=0.65)
    axes.axhline(1 / len(names), color="black", linewidth=0.9, linestyle=":")
    for label in axes.bar_label(bars, [f"{share:.2f}" for share in shares], fontsize=FONT["label"], padding=3):
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_ylim(0, shares.max() * 1.2)
    title, x = "(c) weight by level; it sums to 1", "mean of heads, queries and layers; dotted: equal shares"
    set_labels(axes, title, x=x, y="weight")


def _draw_layers(axes: Axes, sampled: AttentionSamples) -> None:
    labels = [layer.name for layer in sampled.layers]
    bottom = np.zeros(len(labels))
    for level, name in reversed(list(enumerate(sampled.level_names))):
        shares = np.array([layer.level_shares[level] for layer in sampled.layers])
        shade, edge = level_colour(name), {"edgecolor": "white", "linewidth": 0.6}
        bars = axes.bar(labels, shares, bottom=bottom, color=shade, width=0.75, **edge)
        if len(shares) <= MOST_WRITTEN:
            texts = [f"{share:.2f}" if share >= LEAST_WRITTEN else "" for share in shares]
            axes.bar_label(bars, texts, label_type="center", fontsize=FONT["tick"], color=text_colour(shade))
        bottom += shares
    axes.set_ylim(0, 1)
    what = "layer" if "\n" not in labels[0] else "layer, and the levels that it updates"
    set_labels(axes, "(d) weight by level in each layer", x=what)


def _legend(picture: AttentionPicture) -> list[Line2D]:
    names = picture.sampled.level_names
    entries = [
        Line2D([], [], linestyle="", marker=_marker(level), color=level_colour(name), markeredgecolor="black",
               markersize=9, label=name)
        for level, name in reversed(list(enumerate(names)))
    ]  # fmt: skip
    spot = "the point" if picture.box is None else "centre of the object's box"
    entries.append(
        Line2D([], [], linestyle="", marker="+", color="black", markersize=11, markeredgewidth=2, label=spot)
    )
    entries.append(Line2D([], [], linestyle="", label="size and opacity: weight"))
    return entries
