"""README and docs: every command composes, every link leads somewhere, every path that they name exists."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from page_changes import PAGE as HACKING
from page_changes import changed_copy

from litedetr.tools.gpu_report.report import ReportConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPT = re.compile(r"scripts/(\w+)\.py\s*(.*)")
FLAGS_WITH_VALUE = ("--cfg", "-p", "--info")


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Script and arguments of every command in the page's shell blocks."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = SCRIPT.search(line)
            if match:
                filled = re.sub(r"<[^<>]*>", "placeholder", match[2])
                found.append((match[1], shlex.split(filled, comments=True)))
    return found


def overrides(arguments: list[str]) -> list[str]:
    """Without Hydra's own flags; of a sweep its first values."""
    kept, is_sweep = [], "-m" in arguments
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("-") and before not in FLAGS_WITH_VALUE:
            kept.append(argument.split(",")[0] if is_sweep else argument)
    return kept


COMMANDS = [
    pytest.param(script, arguments, page, id=f"{page.stem}: {script} {' '.join(arguments)}")
    for page in PAGES
    for script, arguments in commands(page)
]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the changes of docs/hacking.md, which its commands name."""
    return changed_copy(tmp_path_factory.mktemp("changed"))


@pytest.mark.parametrize(("script", "arguments", "page"), COMMANDS)
def test_commands_compose(
    script: str, arguments: list[str], page: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    assert (ROOT / "scripts" / f"{script}.py").exists()
    if script == "convert":
        monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        monkeypatch.delitem(sys.modules, "convert", raising=False)
        assert __import__("convert").arguments(arguments).published
        return
    if script == "gpu_report":
        assert ReportConfig.from_arguments(arguments)
        return
    GlobalHydra.instance().clear()
    folder = request.getfixturevalue("changed") if page == HACKING else ROOT
    with initialize_config_dir(str(folder / "conf"), version_base=None):
        assert compose(script, overrides(arguments)) is not None


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 50
    assert {param.values[0] for param in COMMANDS} == {
        path.stem for path in (ROOT / "scripts").glob("*.py") if not path.stem.startswith("_")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


def paths_of_tree(block: str) -> list[Path]:
    """What the README's tree names: folders and files in its first 23 columns, and lists of files, `a · b (why)`."""
    found, top, folder = [], ROOT, ROOT
    for line in block.splitlines():
        name, text = line[:23].strip(), line[23:]
        if name:
            top = top if line.startswith(" ") else ROOT / name
            folder = top / name if line.startswith(" ") else top
            found.append(folder)
        if " · " in text:
            items = re.sub(r" \([^()]*\)", "", text.rpartition(": ")[2]).split(" · ")
            found += [folder / item if (folder / item).is_dir() else folder / f"{item}.py" for item in items]
    return found


def test_the_tree_is_as_the_readme_draws_it():
    block = re.search(r"## The tree\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    drawn = paths_of_tree(block)
    assert [path for path in drawn if not path.exists()] == []
    rooms = {path.parent for path in (ROOT / "litedetr").glob("*/__init__.py")} | set((ROOT / "scripts").glob("*.py"))
    assert rooms - set(drawn) == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "LOG.md"], ids=lambda page: page.name)
def test_named_files_exist(page: Path):
    named = set(re.findall(r"`((?:litedetr|kernels|conf|scripts|tests|docs)/[\w./-]+)`", page.read_text()))
    example = {"conf/experiment/cells.yaml"}  # that docs/configuration.md shows how to write
    assert {name for name in named - example if not (ROOT / name).exists()} == set()


def test_the_table_of_groups_lists_all_choices():
    rows = re.findall(r"^\| (`.*?) \| (`.*?) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    listed = {}
    for groups, choices in rows:
        names = re.findall(r"`(\w+)`", groups)
        if all((ROOT / "conf" / name).is_dir() for name in names):
            listed |= dict(zip(names, (set(re.findall(r"`(\w+)`", part)) for part in choices.split("; ")), strict=True))
    assert len(listed) == 11
    files = {group: {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} for group in listed}
    assert listed == files, "write the new file of conf/ into the table of docs/configuration.md"
