"""A copy of the tree, what is built from it, and environments that hold this one's packages."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from test_packages import ROOT

TREE = ["kernels", "litedetr", "scripts", "conf", "tests", "docs", "pyproject.toml", "README.md", "LICENSE"]
BUILD = """
import setuptools.build_meta as backend
print(backend.build_sdist("dist"))
print(backend.build_wheel("dist"))
"""


def copy_of_the_tree(folder: Path) -> Path:
    """`folder` with the tree in it, and one file of tuned launches."""
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "kernels" / "tuned").mkdir(exist_ok=True)
    (folder / "kernels" / "tuned" / "a-gpu.json").write_text("{}")
    return folder


def environment(folder: Path) -> Path:
    """The Python of a new environment with the packages of this one, behind its own; needs no network."""
    checked([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    python = folder / "bin" / "python"
    # as a path, so that an editable install of ours does not count
    (packages_of(python) / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


def packages_of(python: Path) -> Path:
    """The folder that an environment's packages are installed in."""
    return Path(
        checked([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], python.parent).strip()
    )


def install(python: Path, *what: str | Path) -> None:
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    checked([sys.executable, "-m", "pip", "--python", str(python), "install", *options, *what], python.parent)


def checked(command: list[str | Path], folder: Path, **variables: str) -> str:
    """What a command prints that is run in `folder`."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=folder, env=clean | variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
