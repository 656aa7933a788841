"""What a reader learns of a call where an editor shows it: in the docstring of the function itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Function = tuple[str, ast.FunctionDef]  # with the name of its class and file


def functions(path: Path) -> Iterator[Function]:
    """Those of a module and the methods of its classes, but for private ones."""
    where = path.relative_to(ROOT).as_posix()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield f"{where} {node.name}", node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            yield from ((f"{where} {node.name}.{method.name}", method) for method in methods)


FORWARDS = [
    (name, function)
    for path in sorted((ROOT / "litedetr").rglob("*.py"))
    if "kernels" not in path.parts
    for name, function in functions(path)
    if function.name == "forward"
]
OF_KERNELS = [
    (name, function)
    for name, function in functions(ROOT / "kernels" / "functional.py")
    if not function.name.startswith("_")
]


def missing(function: ast.FunctionDef) -> list[str]:
    """What the docstring does not tell: an argument, as `name: ...` at the start of a line, or what is returned."""
    text = ast.get_docstring(function) or ""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = [argument.arg for argument in arguments if argument.arg != "self"]
    untold = [name for name in names if not re.search(rf"^{name}: \S", text, re.MULTILINE)]
    return untold if re.search(r"\bReturns\b", text) else [*untold, "Returns"]


@pytest.mark.parametrize(("name", "function"), FORWARDS, ids=[name for name, _ in FORWARDS])
def test_a_forward_documents_itself(name: str, function: ast.FunctionDef):
    assert missing(function) == [], name


@pytest.mark.parametrize(("name", "function"), OF_KERNELS, ids=[name for name, _ in OF_KERNELS])
def test_the_functions_of_the_kernels_document_themselves(name: str, function: ast.FunctionDef):
    assert missing(function) == [], name
    assert "Raises" in ast.get_docstring(function), name


def test_what_is_missing_is_found():
    """And both lists have what they should look at."""
    (function,) = ast.parse('def forward(self, x, mask=None):\n    """Does it.\n\n    x: (B, C).\n    """\n').body
    assert missing(function) == ["mask", "Returns"]
    assert len(FORWARDS) > 20
    assert {function.name for _, function in OF_KERNELS} >= {"deformable_attention", "key_aware_attention"}
