"""What the pictures share: colours, fonts, and how they are made and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from litedetr.drawing.fonts import font_families, legible

DPI = 110
FONT = {"title": 11, "label": 10, "tick": 9}
# distinct for colour-blind readers too (Okabe and Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d1f")
LEVEL_COLOURS = {"S1": "#ffd000", "S2": "#12b886", "S3": "#1c7ed6", "S4": "#e8102e", "S5": "#9c36b5"}
OTHER_LEVEL = "#666666"
LONGEST = 48  # letters of a name


def new_figure(width: float, height: float) -> Figure:
    """width, height: in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


@contextmanager
def fonts_for(names: Iterable[str]) -> Iterator[None]:
    """Figures made and saved within show these names as they are: in fonts that have their letters, and a $ as a $."""
    with rc_context({"font.family": font_families(map(legible, names)), "text.parse_math": False}):
        yield


def display_name(name: str, longest: int = LONGEST) -> str:
    """A name as figures take it: legible, in one line of at most so many letters."""
    text = legible(name)
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return f" {text}" if text.startswith("_") else text  # which matplotlib would leave out of legends


def save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def colour(number: int) -> str:
    """Of run `number`; they repeat."""
    return COLOURS[number % len(COLOURS)]


def level_colour(name: str) -> str:
    return LEVEL_COLOURS.get(name, OTHER_LEVEL)


def text_colour(background: str) -> str:
    """Black or white, whichever is read better on it."""
    red, green, blue = to_rgb(background)
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def set_labels(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=FONT["title"], loc="left")
    axes.set_xlabel(x, fontsize=FONT["label"])
    axes.set_ylabel(y, fontsize=FONT["label"])
    axes.tick_params(labelsize=FONT["tick"])


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders; their paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
