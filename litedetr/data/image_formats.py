"""Which image formats can be decoded here."""

from __future__ import annotations

import importlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageFile, features
from PIL.EpsImagePlugin import has_ghostscript

# Formats that Pillow itself cannot decode, or not in every build: their package, which registers itself with Pillow.
PLUGINS = {
    "pillow_heif": ((".heic", ".heif", ".hif"), "pip install pillow-heif"),
    "pillow_avif": ((".avif", ".avifs"), "pip install pillow-avif-plugin"),
    "pillow_jxl": ((".jxl",), "pip install pillow-jxl-plugin"),
}
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # of builds of Pillow
RECOGNISED_ONLY = ("MPEG", "PDF", "PALM")
HEAD = 16  # bytes that tell most formats


@cache
def register_plugins() -> None:
    """Let Pillow read the formats of those PLUGINS that are installed; once a process."""
    for package in PLUGINS:
        if find_spec(package) is None or (package == "pillow_avif" and features.check("avif")):
            continue
        plugin = importlib.import_module(package)
        if package == "pillow_heif":
            plugin.register_heif_opener()


def image_suffixes() -> set[str]:
    """Of the formats that can be decoded here, `.jpg`."""
    register_plugins()
    return {suffix for suffix, kind in Image.registered_extensions().items() if _decodes(kind)}


def missing_plugin_warnings(paths: Iterable[Path]) -> list[str]:
    """`12 .heic files left out: pip install pillow-heif`, for each suffix of `paths` that needs a missing plugin."""
    counts = Counter(path.suffix.lower() for path in paths)
    missing = _missing_plugins()
    return [
        f"{count} {suffix} file{'s' * (count > 1)} left out: {missing[suffix]}"
        for suffix, count in sorted(counts.items())
        if suffix in missing
    ]


def plugin_advice(source: object) -> str:
    """What to install for a file of this name, in brackets; empty if nothing would help."""
    advice = _missing_plugins().get(Path(str(source)).suffix.lower())
    return f" ({advice})" if advice else ""


def is_image_head(head: bytes) -> bool:
    """Whether a format that can be decoded here begins with the HEAD bytes `head`; some have no fixed beginning."""
    return any(_accepts(accept, head) for accept in _beginnings())


def _accepts(accept: Callable[[bytes], bool | str], head: bytes) -> bool:
    try:
        return accept(head) is True
    except (IndexError, TypeError, struct.error):  # a file too short for the test; for Pillow that is a no
        return False


@cache
def _beginnings() -> list[Callable[[bytes], bool | str]]:
    """Tests of whether a file's first bytes are those of a format, the usual formats first."""
    register_plugins()
    Image.init()
    return [accept for kind, (_, accept) in Image.OPEN.items() if accept is not None and _decodes(kind)]


def _missing_plugins() -> dict[str, str]:
    """Suffix -> what to install."""
    readable = image_suffixes()
    return {suffix: advice for suffixes, advice in PLUGINS.values() for suffix in suffixes if suffix not in readable}


def _decodes(kind: str) -> bool:
    factory = Image.OPEN.get("JPEG" if kind == "MPO" else kind, (None,))[0]  # an MPO is opened as a JPEG
    is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    if factory is None or is_stub or kind in RECOGNISED_ONLY:
        return False
    return has_ghostscript() if kind == "EPS" else kind not in OPTIONAL or features.check(OPTIONAL[kind])
