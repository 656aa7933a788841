"""The output folder of predictions: which one a source gets, and which pictures in it were drawn by predictions."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from pathlib import Path

from litedetr.data import DataError, ImageFiles
from litedetr.paths import user_path
from litedetr.settings import require

FILE, DESCRIPTION = "predictions.json", "predictions of litedetr"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """What predictions.json says of itself."""

    source: str  # see `absolute_source`
    pictures: tuple[str, ...]  # their paths in the folder

    @classmethod
    def of(cls, folder: Path) -> Results | None:
        """None if the folder holds no predictions.json, or that of another program."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return None
        info = content.get("info") if isinstance(content, Mapping) else None
        if not isinstance(info, Mapping) or info.get("description") != DESCRIPTION:
            return None
        return cls(str(info.get("source")), tuple(map(str, info.get("pictures", ()))))

    def as_info(self) -> dict[str, object]:
        """The section "info" of a file in COCO's form."""
        return {"description": DESCRIPTION, "source": self.source, "pictures": list(self.pictures)}


def absolute_source(source: str) -> str:
    """The absolute path or pattern of a source, by which sources are compared."""
    return os.path.abspath(user_path(source))


def results_folder(parent: Path, source: str) -> Path:
    """The folder of a source below `parent`: of the source's name or, if another source of that name has its results
    there, with eight digits that belong to this source.
    """
    path = user_path(absolute_source(source))
    while has_magic(str(path)) and not path.exists():  # the part before a pattern gives the name
        path = path.parent
    folder = parent / (path.name or "images")
    digits = hashlib.sha256(os.fsencode(absolute_source(source))).hexdigest()[:8]
    return folder if _is_free(folder, source) else folder.with_name(f"{folder.name}-{digits}")


def _is_free(folder: Path, source: str) -> bool:
    if not folder.is_dir():
        return not folder.exists()
    results = Results.of(folder)
    return not any(folder.iterdir()) if results is None else results.source == absolute_source(source)


def without_drawn_pictures(files: ImageFiles, output: Path) -> ImageFiles:
    """`files` without the pictures of predictions: those that a predictions.json in a folder above them names, and all
    below `output` if it holds such a file. A warning gives their number; DataError if nothing else is left,
    ConfigError if pictures would be drawn among other files of the source.
    """
    output = output.resolve()
    output_is_inside = files.folder.resolve() in output.parents
    output_is_ours = Results.of(output) is not None

    @cache
    def drawn(folder: Path) -> set[Path]:
        results = Results.of(folder)
        return set() if results is None else {folder / name for name in results.pictures}

    def is_picture(path: Path) -> bool:
        path = path.resolve()
        if any(path in drawn(folder) for folder in path.parents):
            return True
        below_output = output_is_inside and output in path.parents
        expected = "a folder without images of the source, which pictures of others could overwrite"
        require(output_is_ours or not below_output, "output", expected, f"{output}, which holds {path.name}")
        return below_output  # as a prediction that was killed leaves them: nothing names them

    kept = tuple(path for path in files.paths if not is_picture(path))
    number = len(files.paths) - len(kept)
    if number == 0:
        return files
    if not kept:
        raise DataError(f"source: expected images, found only pictures that predictions drew in {files.folder}")
    _log.warning("source: left out %d pictures that predictions drew", number)
    return ImageFiles(Path(os.path.commonpath([file.parent for file in kept])), kept)
