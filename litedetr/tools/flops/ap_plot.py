"""AP over GFLOPs, like the paper's first figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from litedetr.tools.flops.tables import CountedRow, CountedTable
from litedetr.tools.plots.style import save

SIZE_INCHES, DPI = (10, 6.5), 130


STYLES = {  # colour of a series by the system in its name; whether labels stand above, left of their points, or below
    "DINO": ("#1d3557", True),
    "Lite-DINO": ("#c1121f", True),
    "H-DETR": ("#2a9d8f", False),
    "Lite-H-DETR": ("#e07a1f", False),
    "Deformable DETR": ("#4361ee", True),
    "Lite-Deformable DETR": ("#b5179e", True),
}
OTHERS = ("#6c757d", False)
MARKERS = {"Swin-T": "^", "R50": "o"}  # by the backbone
OTHER_MARKER = "s"


@dataclass(frozen=True)
class Point:
    """A system in the plot."""

    series: str  # backbone and system
    label: str
    ap: float
    gflops: float
    counted: bool  # gflops are ours; otherwise the paper's

    @property
    def system(self) -> str:
        return self.series.split(maxsplit=1)[-1]

    @property
    def style(self) -> tuple[str, bool]:
        return STYLES.get(self.system, OTHERS)

    @property
    def marker(self) -> str:
        return MARKERS[self.series.split()[0]] if self.system in STYLES else OTHER_MARKER


def points(tables: Iterable[CountedTable]) -> list[Point]:
    """Of every row that belongs to a series and whose GFLOPs we or the paper know."""
    found = [_point(row) for table in tables for row in table.rows if row.paper.series and row.paper.ap]
    return [point for point in found if point.gflops is not None]


def _point(row: CountedRow) -> Point:
    paper, counted = row.paper, row.cost is not None
    gflops = row.cost.total.published if counted else paper.paper.total
    variant = next((word for word in paper.name.split() if word.startswith(("H2L2", "H3L1"))), None)
    label = variant or (paper.name if paper.overrides is None else paper.series)
    return Point(paper.series, label, paper.ap, gflops, counted)


def draw(tables: Iterable[CountedTable], image_size: tuple[int, int], path: Path) -> Path:
    """Write a PNG. Filled markers are counted here, hollow ones stand where the paper has them."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    found = points(tables)
    for series in dict.fromkeys(point.series for point in found):
        _draw_series(axes, [point for point in found if point.series == series])
    axes.set_xlabel(f"GFLOPs (multiply-adds, {image_size[0]}x{image_size[1]})")
    axes.set_ylabel("box AP on COCO val2017, the paper's")
    axes.grid(alpha=0.3)
    axes.margins(0.1)
    axes.legend(handles=_legend(found), loc="lower right", fontsize=9)
    return save(figure, path)


def _draw_series(axes: Axes, series: list[Point]) -> None:
    series = sorted(series, key=lambda point: point.gflops)
    colour, above = series[0].style
    axes.plot([p.gflops for p in series], [p.ap for p in series], color=colour, linewidth=1, alpha=0.6, zorder=1)
    for index, point in enumerate(series):
        shift, side, edge = ((-5, 4), "right", "bottom") if above else ((5, -4), "left", "top")
        if above and index == 0 and len(series) > 1:  # the second one's label needs the place
            shift, edge = (-7, 0), "center"
        fill = colour if point.counted else "white"
        axes.scatter(point.gflops, point.ap, s=50, marker=point.marker, facecolor=fill, edgecolor=colour)
        where = {"xytext": shift, "textcoords": "offset points", "ha": side, "va": edge}
        axes.annotate(point.label, (point.gflops, point.ap), fontsize=7.5, color=colour, **where)


def _legend(found: list[Point]) -> list[Line2D]:
    """What there is to see: systems by colour, backbones by marker, and what filled and hollow mean."""

    def entry(label: str, colour: str, marker: str = "", fill: str | None = None) -> Line2D:
        line = "" if marker else "-"
        return Line2D([], [], color=colour, marker=marker, markerfacecolor=fill, linestyle=line, label=label)

    systems = [system for system in STYLES if any(point.system == system for point in found)]
    entries = [entry(system, STYLES[system][0]) for system in systems]
    entries += [entry(backbone, "black", marker) for backbone, marker in MARKERS.items()]
    return [
        *entries,
        entry("not of this code", OTHERS[0], OTHER_MARKER, "white"),
        entry("filled: counted here", "black", "o"),
        entry("hollow: the paper's GFLOPs", "black", "o", "white"),
    ]
