"""Names in any letters, on pictures and in figures."""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from litedetr.drawing import fonts
from litedetr.drawing.draw_boxes import LabelledBox, _font, _Pen, draw_boxes
from litedetr.engine.coco_metrics import SUMMARY
from litedetr.tools.plots import style
from litedetr.tools.plots.draw_scores import draw_scores
from litedetr.tools.plots.draw_training import draw_training
from litedetr.tools.plots.plot_config import ScorePlot, TrainingPlot

# Letters outside DejaVu Sans: Chinese, Devanagari.
CAT, COW = "猫", "गाय"
NAMES = ["$", "$a$", r"$\frac$", "_hidden", "100 %", "a\nb", "{x}", r"\n", "x" * 400, "قطة", CAT, "😀", "\ud800"]


def make_font(path: Path, letters: str) -> Path:
    """All of its letters are the same square."""
    pen = TTGlyphPen(None)
    for move, place in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 700)), (pen.lineTo, (700, 700)), (pen.lineTo, (700, 0))):
        move(place)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def without_other_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with matplotlib's own fonts only; what was told is told anew."""
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if "mpl-data" in font.fname])
    for function in (fonts._font_with, fonts._warn_once):
        function.cache_clear()
    yield
    for function in (fonts._font_with, fonts._warn_once):
        function.cache_clear()


@pytest.fixture
def squares(tmp_path: Path, without_other_fonts: None) -> Path:
    """An installed font with Latin letters and CAT."""
    path = make_font(tmp_path / "squares.ttf", "".join(map(chr, range(32, 127))) + CAT)
    fontManager.addfont(path)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Größe, Кот, γάτα, قطة, חתול", "Größe, Кот, γάτα, قطة, חתול"),
        (f"a {CAT} b", "a \\u732b b"),
        ("a\n b\t\u3000c", "a b c"),
        ("e\u0301", "é"),
        ("\u200fab\u200b", "ab"),
        ("\x07\ud800", "\\x07\\ud800"),
        ("\U0001f9ff", "\\U0001f9ff"),
        ("$_%{}\\", "$_%{}\\"),
    ],
)
def test_letters_that_no_font_has_are_escapes(text: str, expected: str):
    assert fonts.legible(text) == expected
    assert fonts.font_file(expected) == fonts.usual_file()


def test_an_installed_font_is_used_and_told_once(squares: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert [fonts.legible(f"{CAT} {number}") for number in range(3)] == [f"{CAT} {number}" for number in range(3)]
        assert fonts.font_file(f"{CAT} 0.90") == str(squares)
        assert fonts.font_families(["cat", f"a {CAT}"]) == ["DejaVu Sans", "Squares"]
        assert fonts.legible(COW).isascii()
        assert fonts.legible(COW[:2]).isascii()
    assert [re.sub(".*; ", "", record.getMessage())[:24] for record in caplog.records] == [
        "they are drawn in Square",
        "no installed font has al",
    ]
    assert caplog.text.isascii()


def test_a_damaged_font_is_passed_over(tmp_path: Path):
    path = make_font(tmp_path / "squares.ttf", "Az09. " + CAT)
    fontManager.addfont(path)
    path.write_bytes(b"nothing")
    fonts._letters.cache_clear()
    assert fonts.legible(CAT) == "\\u732b"


def test_a_picture_has_the_letters_of_the_installed_font(squares: Path):
    picture = draw_boxes(Image.new("RGB", (900, 900)), [LabelledBox((100, 200, 50, 50), CAT, "#ff0000")])
    rows, columns = np.nonzero((np.asarray(picture) > 250).all(-1))
    filled = len(rows) / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    assert filled > 0.95  # a square, and no frame of a missing letter


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_within_the_picture(name: str):
    pen = _Pen(Image.new("RGB", (400, 360)))
    pen.label((100, 200, 150, 250), f"{name} 0.95", "#ff0000")
    x1, y1, x2, y2 = pen.taken[0]
    assert min(x1, y1) >= 0
    assert (x2 < 400, y2 < 360) == (True, True)
    assert pen._shortened(fonts.legible(f"{name} 0.95"), _font(fonts.usual_file(), pen.letters)).endswith(" 0.95")


def texts(figure: object) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def test_any_name_is_shown_in_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a warning of a missing letter, and as it is: no formula, no label left out."""
    drawn = []
    monkeypatch.setattr(style.Figure, "savefig", watched(style.Figure.savefig, drawn))
    runs = [tmp_path / name for name in ("$a$", "_run", CAT)]
    for run in runs:
        run.mkdir()
        scores = {
            **dict.fromkeys(SUMMARY, 0.5),
            "classes": {name: {"AP": 0.5, "AP50": 0.5, "objects": 3} for name in NAMES},
        }
        record = {"kind": "train", "step": 1, "epoch": 0.5, "loss": 1.0}
        (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        (run / "results.json").write_text(json.dumps(scores))
    folders = tuple(map(str, runs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_scores(ScorePlot(runs=folders))
        draw_training(TrainingPlot(folders))
    for figure_texts in drawn:
        assert {"$a$", " _run", "\\u732b"} <= figure_texts
    assert {r"$\frac$ (3)", " _hidden (3)", "100 % (3)", "a b (3)", "x" * 45 + "... (3)"} <= drawn[1]


def watched(save, drawn: list[set[str]]):
    def wrapped(figure, *arguments, **settings):
        save(figure, *arguments, **settings)
        drawn.append(texts(figure))

    return wrapped
