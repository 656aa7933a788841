"""Images to predict on: a file, a folder, a pattern."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from litedetr.data.errors import DataError
from litedetr.data.image_formats import image_suffixes, missing_plugin_warnings
from litedetr.paths import user_path

SHOWN = 5
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFiles:
    """Image files below one folder, in natural order: frame_2 before frame_10."""

    folder: Path
    paths: tuple[Path, ...]

    def name(self, path: Path) -> str:
        """The path relative to the folder, with forward slashes."""
        return path.relative_to(self.folder).as_posix()


def find_images(source: str) -> ImageFiles:
    """The images that `source` means: a file, the image files of a folder (not of its sub-folders), or what a pattern
    finds, `photos/**/*.jpg` for all sub-folders. DataError if there are none; a warning counts the files that need a
    plugin of Pillow that is not there.
    """
    path = user_path(source)
    if path.is_dir():
        return ImageFiles(path, _in_order(_images(path.iterdir()), source))
    if path.is_file():
        if path.suffix.lower() in VIDEOS:
            expected, advice = "an image or a folder of a video's frames", f"ffmpeg -i {path} frames/%06d.jpg makes one"
            raise DataError(f"source: expected {expected}, got the video {path}; {advice}")
        return ImageFiles(path.parent, (path,))
    if has_magic(str(path)):
        paths = _in_order(_images(map(Path, glob(str(path), recursive=True))), source)
        return ImageFiles(Path(os.path.commonpath([file.parent for file in paths])), paths)
    raise DataError(f"source: expected an image, a folder or a pattern such as 'photos/*.jpg', got {source}: not there")


def _in_order(paths: Iterable[Path], source: str) -> tuple[Path, ...]:
    found = tuple(sorted(paths, key=_natural))
    if not found:
        suffixes = ", ".join(sorted(image_suffixes())[:SHOWN])
        raise DataError(f"source: expected image files ({suffixes}, ...), found none in {source}")
    return found


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers by their value, the rest by letters."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], str(path)


def _images(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths`, by their suffixes; a warning counts those that need a plugin."""
    shown = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    for warning in missing_plugin_warnings(shown):
        _log.warning(warning)
    suffixes = image_suffixes()
    return [path for path in shown if path.suffix.lower() in suffixes]
