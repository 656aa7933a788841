"""Paths as people write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from litedetr.settings import ConfigError

PACKAGE = Path(__file__).resolve().parent
# holds conf/ and scripts/, which are not installed with the package: then it is that of the script that runs
CLONE = PACKAGE.parent if (PACKAGE.parent / "conf").is_dir() else Path(sys.argv[0]).resolve().parent.parent


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a setting or an argument means: `~` and `~name` at its beginning are the homes of users.

    ConfigError if there is no such user. A file whose name begins with ~ is written ./~name; of that the path comes
    back absolute, so that a second call changes nothing. Letters that the locale lacks (LC_ALL=C) are looked for in
    UTF-8.
    """
    expanded = _encodable(os.path.expanduser(text))
    if expanded.startswith("~"):
        user = Path(expanded).parts[0]
        raise ConfigError(f"{text}: {user} is the home of no user of this machine; a file of this name is ./{text}")
    path = Path(expanded)
    return path.absolute() if path.parts and path.parts[0].startswith("~") else path


def _encodable(path: str) -> str:
    """As Python would have read it from this machine's file system: with its bytes in place of unknown letters."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    return path
