"""What files hold does not depend on the machine's language."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("kernels", "litedetr", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
OTHERS = ("Image.open", "os.open")  # no text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_name_their_encoding(path: Path):
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) in OTHERS:
            continue
        name = ast.unparse(node.func).split(".")[-1]
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        is_text = name in ("read_text", "write_text") or (name == "open" and not any("b" in mode for mode in modes))
        if is_text and "encoding" not in {keyword.arg for keyword in node.keywords}:
            missing.append(f"line {node.lineno}: {ast.unparse(node)}")
    assert missing == []
