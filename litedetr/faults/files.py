"""Files that are whole whatever happens while they are written, and errors that say what the disk lacks."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from litedetr.settings import ConfigError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageError(OSError):
    """A file that cannot be written; the message names it, the reason and what there is of room."""


@contextmanager
def replacing(path: Path, num_bytes: int | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` in one step at the end: whenever the process dies, `path` is
    the old file or the new one, whole. Where it cannot be written, StorageError, and no part of it stays behind.

    num_bytes: about how many are going to be written, for the message.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, num_bytes):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # a full disk would stay full
            raise
        _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """What a process killed within `replacing` left in `folder`."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """StorageError where `path` cannot be written, in whatever form the library that writes it tells so."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise StorageError(f"{path}: cannot be written: {_explained(reason, path, num_bytes)}") from error


def require_writable(name: str, folder: Path) -> None:
    """ConfigError for the setting `name` unless files can be made in `folder`, which need not be there yet.

    Nothing is left behind.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(f"{name}: expected a folder to write to, got {str(folder)!r} ({error.strerror})") from error


def _system_error(error: BaseException | None) -> OSError | None:
    """torch.save answers a failed write with an error of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _explained(error: OSError, path: Path, num_bytes: int | None) -> str:
    reason = error.strerror or str(error)
    if error.errno not in NO_ROOM:
        return reason
    needed = "" if num_bytes is None else f"about {num_bytes / 1e6:.1f} MB needed, "
    return f"{reason} ({needed}{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free there)"


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
