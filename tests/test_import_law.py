"""Who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMON = {
    f"litedetr.{name}"
    for name in ("structures", "boxes", "renamed_settings", "settings", "paths", "transfers", "pixels", "registry")
}
DETECTOR = COMMON | {f"litedetr.{name}" for name in ("models", "losses", "data", "postprocess", "weights")}
TRAINING = DETECTOR | {"litedetr.engine", "litedetr.drawing", "litedetr.faults"}
# what each part of the project may import of ours, from the innermost part to the outermost
LAW = {
    "kernels": {"litedetr.kernels"},
    "litedetr/pixels.py": set(),
    "litedetr/structures.py": {"litedetr.pixels"},
    "litedetr/boxes.py": set(),
    "litedetr/renamed_settings.py": set(),
    "litedetr/settings.py": {"litedetr.renamed_settings"},
    "litedetr/paths.py": {"litedetr.settings"},
    "litedetr/threads.py": set(),
    "litedetr/registry.py": set(),
    "litedetr/transfers.py": set(),
    "litedetr/models": COMMON | {"litedetr.models"},
    "litedetr/models/attention.py": COMMON | {"litedetr.models", "litedetr.kernels"},
    "litedetr/losses": COMMON | {"litedetr.losses"},
    "litedetr/data": COMMON | {"litedetr.data"},
    "litedetr/postprocess.py": COMMON,
    "litedetr/weights": COMMON | {"litedetr.weights", "litedetr.models"},
    "litedetr/faults": COMMON | {"litedetr.faults"},
    "litedetr/drawing": COMMON | {"litedetr.drawing", "litedetr.data"},
    "litedetr/engine": TRAINING,
    "litedetr/inference": TRAINING | {"litedetr.inference"},
    "litedetr/inference/cuda_graphs.py": TRAINING | {"litedetr.inference", "litedetr.kernels"},
    "litedetr/tools": TRAINING | {"litedetr.inference", "litedetr.tools", "litedetr.kernels"},
    "litedetr/tools/gpu_report/step_process.py": {"litedetr.tools", "litedetr.cli"},  # a program of its own
    "litedetr/cli": TRAINING | {"litedetr.inference", "litedetr.cli", "litedetr.threads"},
    "scripts": TRAINING | {f"litedetr.{name}" for name in ("inference", "tools", "cli", "kernels", "threads")},
}
COMMAND_LINE_ONLY = {"hydra", "omegaconf"}


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


def part_of(path: Path) -> str:
    """The most specific entry of LAW that governs `path`."""
    name = path.relative_to(ROOT).as_posix()
    matching = [part for part in LAW if name == part or name.startswith(f"{part}/")]
    return max(matching, key=len, default="")


def allowed(module: str, permitted: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in permitted)


SOURCES = sorted(path for folder in ("kernels", "litedetr", "scripts") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_keep_the_law(path):
    part = part_of(path)
    if path == ROOT / "litedetr" / "__init__.py":
        return  # the package's own front door
    assert part, f"{path}: no rule of LAW covers it"
    ours = {name for name in imports(path) if name.split(".")[0] in ("kernels", "litedetr", "scripts")}
    assert not {name for name in ours if not allowed(name, LAW[part])}
    if part not in ("scripts", "litedetr/cli"):
        assert not {name for name in imports(path) if name.split(".")[0] in COMMAND_LINE_ONLY}


SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / "litedetr/tools/gpu_report/step_process.py"], ids=lambda p: p.stem)
def test_programs_import_the_command_line_first(path):
    """It settles how threads wait before torch is loaded."""
    imported = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported]
    first = next(name for name in names if name.split(".")[0] in ("litedetr", "torch"))
    assert allowed(first, {"litedetr.cli"})


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_thin(path):
    """They compose, call and print; the rest is the package's."""
    text = path.read_text()
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert len(text.splitlines()) <= 50
    assert "sys.path" not in text


def test_kernels_need_torch_and_triton_alone():
    third_party = {"torch", "triton"}
    standard = __import__("sys").stdlib_module_names
    for path in (ROOT / "kernels").rglob("*.py"):
        peers = {"deformops"} if path.name == "peers.py" else set()  # compared with where it is installed
        others = {name.split(".")[0] for name in imports(path) if not name.startswith("litedetr.kernels")}
        assert others <= third_party | peers | standard, path


def test_computing_an_attention_needs_nothing_that_measures_one():
    for path in (ROOT / "kernels").rglob("*.py"):
        if "bench" not in path.parts:
            assert not {name for name in imports(path) if name.startswith("litedetr.kernels.bench")}, path
