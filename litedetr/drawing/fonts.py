"""Letters for pictures and figures: an installed font that has them, or escapes that any font has."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

USUAL = "DejaVu Sans"  # it comes with matplotlib and has Latin, Greek, Cyrillic, Arabic and Hebrew letters
_log = logging.getLogger(__name__)


def legible(text: str) -> str:
    """`text` in one line and in letters that some font here has; the others as escapes, such as \\u732b."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")  # marks without a shape
    missing = _missing(text)
    if not missing or _font_with(missing) is not None:
        return text
    return "".join(letter if letter not in missing else ascii(letter)[1:-1] for letter in text)


def font_file(text: str) -> str:
    """The file of a font for a text that is legible."""
    font = _font_with(_missing(text))
    return usual_file() if font is None else font[1]


def font_families(texts: Iterable[str]) -> list[str]:
    """For matplotlib, which takes each letter from the first font that has it."""
    found = [_font_with(_missing(text)) for text in texts]
    return list(dict.fromkeys([USUAL, *(font[0] for font in found if font is not None)]))


def usual_file() -> str:
    from matplotlib import get_data_path  # here, for those who draw nothing

    return str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _missing(text: str) -> frozenset[str]:
    """What the usual font has not."""
    if text.isascii() and text.isprintable():
        return frozenset()
    return frozenset(text) - _letters(usual_file())


@cache
def _font_with(letters: frozenset[str]) -> tuple[str, str] | None:
    """(family, file) of the first installed font that has `letters` beside the Latin ones; None if there is none."""
    if not letters:
        return None
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    wanted = letters | frozenset("Az09. ")
    installed = [font for font in fontManager.ttflist if not font.fname.startswith(get_data_path())]
    upright = [font for font in installed if font.style == "normal"]
    for font in sorted(upright, key=lambda font: (abs(font.weight - 400), font.name, font.fname)):
        if wanted <= _letters(font.fname):
            _warn_once(f"they are drawn in {font.name}")
            return font.name, font.fname
    _warn_once(
        "no installed font has all of them: they are written as escapes such as \\u732b. Noto fonts would have them"
    )
    return None


@cache
def _warn_once(what: str) -> None:
    _log.warning("pictures: names have letters that %s lacks; %s", USUAL, what)


@cache
def _letters(file: str) -> frozenset[str]:
    """Those of a font; none of one that is damaged or holds bitmaps, such as coloured emoji."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (RuntimeError, OSError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
