"""The image files that a COCO JSON names: found under other spellings too, and checked before training begins."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, takewhile
from os.path import isdir, isfile, islink
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from litedetr.data.errors import DataError
from litedetr.data.image_formats import HEAD, is_image_head
from litedetr.data.read_images import read_size

READERS, PIECE = 16, 64  # threads, as opening a file of a network disk is mostly waiting, and files that one takes
MOST_COMPARED = 20_000  # names that are compared for one that is near
_ABSOLUTE = re.compile(r"(/|[A-Za-z]:[\\/]|\\\\|\w+://)")


@dataclass(frozen=True)
class FoundFiles:
    """Where the images of a JSON are."""

    names: list[str]  # each file's path relative to the folder, in the order asked for
    notes: list[str]  # what the user should know


def find_files(folder: Path, names: Sequence[str], source: Path) -> FoundFiles:
    """Where the images `names` of the JSON `source` lie under `folder`. DataError counts those that are not there.

    A name without a file of its own gets the one file that differs only in case, Unicode form, percent-encoding,
    backslashes or leading folders (see `_spellings`), unless another name has that file.
    """
    missing = _missing(folder, names)
    if not missing:
        return FoundFiles(list(names), [])
    matches = _Matches(folder, names, set(names) - set(missing))
    resolved = {name: matches.only_file(name) for name in missing}
    lost = [name for name in missing if resolved[name] is None]
    if lost:
        raise DataError(
            f"{source}: {len(lost)} of its {len(names)} images are not in {folder}, "
            f"the first is {folder / lost[0]}{matches.hint(lost[0])}"
        )
    for file, number in Counter(resolved.values()).items():
        if number > 1:
            first, second = [name for name in resolved if resolved[name] == file][:2]
            raise DataError(f"{source}: {first!r} and {second!r} would both be {folder / file}")
    files = f"{len(missing)} file names were" if len(missing) > 1 else "1 file name was"
    first = f"{missing[0]!r} to {resolved[missing[0]]!r}"
    note = f"{source}: {files} matched to files of other spelling, the first {first}"
    return FoundFiles([resolved.get(name) or name for name in names], [note])


def unreadable(paths: Sequence[Path]) -> list[tuple[int, str]]:
    """(index, reason) of the files that cannot be opened, are empty, or do not begin as an image does.

    Reads 16 bytes of each file.
    """
    pieces = [paths[start : start + PIECE] for start in range(0, len(paths), PIECE)]
    with ThreadPoolExecutor(READERS) as pool:
        reasons = chain.from_iterable(pool.map(lambda piece: [_reason(path) for path in piece], pieces))
        return [(index, reason) for index, reason in enumerate(reasons) if reason]


def _reason(path: Path) -> str:
    """Why `path` can be no image; empty if it may be one."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(HEAD)
    except OSError as error:
        return str(error.strerror)
    if not head:
        return "it is empty"
    if is_image_head(head):
        return ""
    try:
        read_size(path)  # of the formats that have no such beginning
    except DataError as error:
        return f"{str(error).removeprefix(f'{path}: cannot be read as an image: ')}, it begins with {head!r}"
    return ""


def _missing(folder: Path, names: Sequence[str]) -> list[str]:
    """One listing for each folder, not one look for each file."""
    paths = [folder / name for name in names]
    listings = {parent: _listing(parent) for parent in {path.parent for path in paths}}
    return [name for name, path in zip(names, paths, strict=True) if path.name not in listings[path.parent]]


def _listing(folder: Path) -> set[str]:
    """Names of all files, also behind links; none if there is no such folder, or can be none of such a name."""
    if not isdir(folder):
        return set()
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False) or isfile(entry.path)}
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed: {error}") from error


class _Matches:
    """All files under `folder` by their spelling, without those that one of `taken` names exactly."""

    def __init__(self, folder: Path, names: Sequence[str], taken: set[str]) -> None:
        self.folder = folder
        self.files: dict[str, list[str]] = defaultdict(list)
        own = {Path(os.path.relpath(folder / name, folder)).as_posix() for name in taken}
        for name in sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - own):
            self.files[_plain(name)].append(name)
        folders = [_plain(name).split("/")[:-1] for name in names]
        levels = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
        self.shared = len(list(levels))  # leading folders that all names have in common

    def only_file(self, name: str) -> str | None:
        files = self._answers(name)
        return files[0] if len(files) == 1 else None

    def hint(self, name: str) -> str:
        """In brackets, what may have been meant."""
        files = self._answers(name)
        if islink(self.folder / name):
            return " (a link to nowhere)"
        if files:
            return f" (several files answer to it: {', '.join(files[:3])})"
        plain = list(self.files)[:MOST_COMPARED]
        near = difflib.get_close_matches(_plain(name), plain, n=1) or difflib.get_close_matches(
            PurePosixPath(_plain(name)).name, plain, n=1
        )
        return f" (near: {self.files[near[0]][0]})" if near else ""

    def _answers(self, name: str) -> list[str]:
        spellings = _spellings(name, self.folder, self.shared)
        return sorted({file for spelling in spellings for file in self.files.get(spelling, ())})


def _plain(name: str) -> str:
    """Without what programs and systems spell differently; folders are separated by slashes, `./` is left out."""
    text = unicodedata.normalize("NFC", unquote(name.replace("\\", "/")))
    return str(PurePosixPath(text)).casefold()


def _spellings(name: str, folder: Path, shared: int) -> set[str]:
    """`name` and what is left of it without leading folders: those that end the folder's own path, those that all names
    of the file share, and of an absolute path or an address any.
    """
    plain, own = _plain(name), _plain(str(folder.absolute())).split("/")
    parts = plain.split("/")
    dropped = {count for count in range(1, len(parts)) if parts[:count] == own[-count:]}
    dropped |= set(range(1, min(shared, len(parts) - 1) + 1))
    if _ABSOLUTE.match(name):
        dropped |= set(range(1, len(parts)))
    return {plain} | {"/".join(parts[count:]) for count in dropped}
