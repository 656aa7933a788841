"""Who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMON = {f"litedetr.{name}" for name in ("structures", "boxes", "config", "paths", "transfers", "pixels")}
# what each part of the project may import of ours, and of packages with rules of their own
LAW = {
    "kernels": {"kernels"},
    "litedetr/pixels.py": set(),
    "litedetr/structures.py": {"litedetr.pixels"},
    "litedetr/boxes.py": set(),
    "litedetr/config.py": set(),
    "litedetr/paths.py": {"litedetr.config"},
    "litedetr/threads.py": set(),
    "litedetr/transfers.py": set(),
    "litedetr/models/attention.py": COMMON | {"litedetr.models", "kernels"},
    "litedetr/models": COMMON | {"litedetr.models"},
    "litedetr/losses": COMMON | {"litedetr.losses"},
    "litedetr/data": COMMON | {"litedetr.data"},
    "litedetr/postprocess.py": COMMON,
    "litedetr/weights": COMMON | {"litedetr.weights", "litedetr.models"},
    "litedetr/engine": COMMON
    | {"litedetr.engine", "litedetr.models", "litedetr.losses", "litedetr.data", "litedetr.postprocess"}
    | {"litedetr.weights"},
    "litedetr/engine/cuda_graphs.py": COMMON | {"litedetr.engine", "kernels"},
    "litedetr/gpu_report": COMMON
    | {"litedetr.gpu_report", "litedetr.engine", "litedetr.models", "litedetr.losses", "kernels"},
    "scripts": COMMON | {"litedetr.engine", "litedetr.threads", "scripts"},
    "scripts/autotune.py": COMMON | {"litedetr.engine", "litedetr.models", "kernels"},
    "scripts/memory.py": COMMON | {"litedetr.engine", "kernels"},
    "scripts/benchmark.py": COMMON | {"litedetr.engine", "litedetr.models", "kernels"},
    "scripts/gpu_report.py": COMMON | {"litedetr.gpu_report"},
    "scripts/_gpu_report_step.py": {"litedetr.gpu_report", "litedetr.threads"},
}
SCRIPTS_ALONE = {"hydra", "omegaconf"}


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
    if not part.startswith("scripts"):
        assert not {name for name in imports(path) if name.split(".")[0] in SCRIPTS_ALONE}


def test_kernels_need_torch_and_triton_alone():
    third_party = {"torch", "triton", "kernels"}
    standard = __import__("sys").stdlib_module_names
    for path in (ROOT / "kernels").rglob("*.py"):
        peers = {"deformops"} if path.name == "peers.py" else set()  # compared with where it is installed
        assert {name.split(".")[0] for name in imports(path)} <= third_party | peers | standard, path
