"""Every path that a user gives goes through `user_path`."""

import ast
from pathlib import Path

import pytest

from litedetr.engine.evaluate_checkpoint import EvalConfig
from litedetr.inference.predict_files import PredictConfig
from litedetr.paths import user_path
from litedetr.settings import ConfigError
from litedetr.tools.export.export_config import ExportConfig

ROOT = Path(__file__).parent.parent
OWNER = ROOT / "litedetr" / "paths.py"
SOURCES = [path for folder in ("litedetr", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
# What Path(...) may be made of: nothing that a user gives.
OURS = {
    "",
    "__file__",
    "CONFIG_FOLDER",
    "'runs'",
    "'/proc/self/status'",
    "get_data_path()",
    "call.folder",  # of a report, as the process of a step gets it
    "package_folder",  # of an installed package
    "name",  # of a run: a folder's name, which is no path
    "os.path.commonpath([file.parent for file in paths])",
    "os.path.commonpath([file.parent for file in kept])",
    "os.path.relpath(folder / name, folder)",
    "parent, file",  # of a listing
    "str(source)",  # of an image that is being read, for its suffix
    "tempfile.mkdtemp(prefix='.shapes-', dir=cache)",
    "config.image",  # of the attention's picture, for its name alone
}


def test_homes_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a") == user_path(Path("~/runs/a")) == tmp_path / "runs" / "a"
    assert user_path("~") == tmp_path
    assert user_path("runs/~a") == Path("runs/~a")
    assert user_path(tmp_path) == tmp_path


def test_a_user_who_is_not_there_is_told_and_a_file_named_so_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^~nobody-here/a\.pt: ~nobody-here is the home of no user .* \./~nobody"):
        user_path("~nobody-here/a.pt")
    found = user_path("./~nobody-here/a.pt")
    assert found == user_path(found) == tmp_path / "~nobody-here" / "a.pt"


def test_settings_know_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    best = tmp_path / "run" / "best.pt"
    assert EvalConfig("~/run").path == EvalConfig("~/run/best.pt").path == best
    assert PredictConfig("~/run", "a.jpg").folder == tmp_path / "run" / "predictions" / "a.jpg"
    assert PredictConfig("~/run", "a.jpg", output="~/found").folder == tmp_path / "found"
    assert ExportConfig("~/run", output="~/a.onnx").target == tmp_path / "a.onnx"


def test_letters_that_the_locale_lacks_are_read_as_the_file_system_has_them(monkeypatch: pytest.MonkeyPatch):
    """As with LC_ALL=C PYTHONUTF8=0; a path that came from there is found anywhere else."""
    monkeypatch.setattr("os.fsencode", lambda path: path.encode("ascii", "surrogateescape"))
    monkeypatch.setattr("os.fsdecode", lambda path: path.decode("ascii", "surrogateescape"))
    found = user_path("bäume/a.jpg")
    assert str(found) == "b\udcc3\udca4ume/a.jpg"
    assert user_path(found) == found
    assert str(found).encode("utf-8", "surrogateescape").decode() == "bäume/a.jpg"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_else_makes_paths_of_settings(path: Path):
    if path == OWNER:
        return
    text = path.read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    made = {ast.unparse(call)[len("Path(") : -1] for call in calls if ast.unparse(call.func) == "Path"}
    assert made <= OURS, "a path that a user gives wants litedetr.paths.user_path"
    assert not [call for call in calls if ast.unparse(call.func).endswith("expanduser")]
    assert "PurePath" not in text
