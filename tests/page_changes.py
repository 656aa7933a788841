"""The changes that docs/hacking.md shows as diffs."""

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hacking.md"


def changes() -> list[str]:
    return re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def changed_copy(folder: Path) -> Path:
    """`folder`, with a copy of the code and its configuration to which all changes were made."""
    for part in ("kernels", "litedetr", "conf", "scripts"):
        leave = shutil.ignore_patterns("__pycache__", "runs")
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=leave)
    for change in changes():
        if _apply(folder, change, "--reverse", "--check").returncode == 0:
            continue  # somebody has followed the page
        applied = _apply(folder, change, "-C1")
        assert applied.returncode == 0, f"docs/hacking.md: a diff no longer fits the code: {applied.stderr}\n{change}"
    return folder


def _apply(folder: Path, change: str, *options: str) -> subprocess.CompletedProcess:
    command = ["git", "apply", *options, "-"]
    return subprocess.run(command, cwd=folder, input=change, text=True, capture_output=True)
