"""The page: the answers, then every figure."""

from pathlib import Path

import pytest

from litedetr.tools.gpu_report.markdown_tables import LEGEND, MOST_SHOWN, cell, tables
from litedetr.tools.gpu_report.page import PAGE, write_page
from litedetr.tools.gpu_report.rows_file import NAME, Rows, read_rows
from litedetr.tools.gpu_report.steps.nvidia_tools import read_counters
from litedetr.tools.gpu_report.summary import summary

ATTENTION = {
    "kind": "attention",
    "score": "key_aware_shared",
    "queries": "high 5523",
    "regime": "grid",
    "dtype": "bfloat16",
}
DETECTOR = {"kind": "detectors", "image": "800x1333", "batch": 8, "precision": "bf16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of a report that has told something of each step, with its page."""
    folder = tmp_path_factory.mktemp("report")

    def tell(step: str, **row: object) -> None:
        Rows(folder, "2026-01-01T00:00:00", step).append(row)

    tell("machine", kind="card", name="Some GPU")
    for name, milliseconds, ratio in [("ours", 0.02, 1.0), ("unfused", 0.1, 5.0)]:
        figures = {"milliseconds": milliseconds, "ratio": ratio, "limit_ms": 0.005, "limit_share": 0.25}
        tell("attention", **ATTENTION, run="forward", name=name, cold_ms=milliseconds + 0.01, **figures)
    tell("detectors", **DETECTOR, system="lite", eager_ms=40.0, graph_ms=20.0)
    tell("detectors", **DETECTOR, system="full", eager_ms=60.0, graph_ms=None)
    for score, host_us in (("key_aware_shared", 35.4), ("key_aware", 40.0)):
        tell("host", kind="host", score=score, **{"pass": "forward without gradient"}, host_us=host_us)
    step = {"ms": 100.0, "images_per_s": 80.0, "peak_mib": 9000.0}
    tell("step", kind="training step", system="lite", batch=8, precision="bf16", **step)
    for times in (3, 1):
        tell("step", kind="waits", batch=8, operator="copy", where="here:1", times=times)
    tell("training", kind="evaluations", epoch=1, AP=0.1, seconds=50.0)
    tell("training", kind="evaluations", epoch=6, AP=0.52, seconds=300.0)
    tell("suite", kind="failed test", test="tests/test_.py::test", message="wrong")
    tell("suite", kind="tests", passed=50, failed=0, skipped=1)
    tell("suite", kind="tests", passed=70, failed=1, skipped=2, exit_code=1)
    for kind in ("atomics", "gathers"):
        tell("memory_access", kind=kind, what="whole rows", where="random", ms=1.0, tb_per_s=2.0)
    tell("suite", kind="outcome", status="failed", seconds=12.3456, reason="exit code 1")
    write_page(folder)
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "# Some GPU",
        "**bfloat16, forward pass**",
        "| score | queries | regime | ours us | cold us | limit | unfused / ours |",
        "| key_aware_shared | high 5523 | grid | 20 | 30 | 25% | 5 |",
        "| lite | 8 | bf16 | 40 | 1 | 20 | 1 | 400 |",
        "| full | 8 | bf16 | 60 | 1.5 | - | - | - |",
        "- The step `suite` failed: exit code 1. Its output: logs/suite.txt.",
        "- Failed test: tests/test\\_.py::test.",
        "- Host time of one call of an attention, forward without gradient: key_aware_shared 35.4 us, key_aware 40 us.",
        "- A training step of lite, batch 8, bf16: 100 ms, 80 images/s, 9000 MiB; the host waits 4 times for the GPU.",
        "- The default run (the README's first command): AP 0.52 after epoch 6, 300 s.",
        "- The kernels' tests: 70 passed, 1 failed, 2 skipped.",
        "| suite | failed | 12.35 | exit code 1 |",
        "| machine | cut short | - | - |",
        "| autotune | not run | - | - |",
        "![attention](attention.png)",
    ],
)
def test_it_says(folder, line):
    assert line in (folder / PAGE).read_text().splitlines()


def test_pictures_are_drawn(folder):
    assert {path.name for path in folder.glob("*.png")} == {"attention.png", "detectors.png", "memory_access.png"}


def test_without_rows_there_is_still_a_page(tmp_path):
    assert "there are no rows" in write_page(tmp_path).read_text()


@pytest.mark.parametrize(
    ("step", "kind", "section"),
    [
        ("attention", "attention", "Attentions"),
        ("attention", "attention", "attention.png"),
        ("detectors", "detectors", "Detectors"),
        ("memory_access", "gathers", "memory_access.png"),
        ("host", "host", "Host time"),
        ("step", "training step", "Training"),
        ("suite", "tests", "Tests"),
    ],
)
def test_rows_of_another_version_cost_their_section_alone(tmp_path, step, kind, section):
    Rows(tmp_path, "today", "machine").append({"kind": "card", "name": "Some GPU"})
    Rows(tmp_path, "today", step).append({"kind": kind, "figure": 1.5})
    page = write_page(tmp_path).read_text()
    assert f"{section}: left out, as its rows are not those of this version: KeyError" in page
    assert "# Some GPU" in page
    assert "| figure | 1.5 |" in page


@pytest.mark.parametrize(
    "line",
    [
        *(b"\xff\xfe", b"[1]", b"[" * 10**5, b"1" * 5000),
        b'{"report": 1, "step": "host", "kind": "host"}',
        b'{"report": "1", "step": [], "kind": "host"}',
        b'{"report": "1", "step": "host", "kind": {}}',
    ],
    ids=lambda line: line[:44].decode("latin-1"),
)
def test_lines_that_are_no_rows_are_left_out(tmp_path, line):
    (tmp_path / NAME).write_bytes(line + b"\n")
    Rows(tmp_path, "today", "machine").append({"kind": "card", "name": "\ud800"})
    assert len(read_rows(tmp_path)) == 1
    assert "# \\ud800" in write_page(tmp_path).read_text()


def test_what_all_rows_share_stands_above_their_table():
    rows = [{"kind": "x", "a": 1, "b": 2.5}, {"kind": "x", "a": 1, "b": None, "c": "t"}]
    assert tables(rows) == ["**x** (a 1)\n\n| b | c |\n| --- | --- |\n| 2.5 | - |\n| - | t |"]


def test_equal_rows_are_shown_once():
    rows = [{"kind": "x", "a": 1}, {"kind": "x", "a": 1}]
    assert tables(rows) == tables(rows[:1]) == ["**x**\n\n|  |  |\n| --- | --- |\n| a | 1 |"]


def test_a_long_table_is_folded_and_a_known_kind_explained():
    rows = [{"kind": "settings", "ms": number} for number in range(MOST_SHOWN + 1)]
    (long,) = tables(rows)
    assert f"<summary>{MOST_SHOWN + 1} rows</summary>\n\n| ms |" in long
    assert LEGEND["settings"] in long
    assert "<summary>" not in tables(rows[1:])[0]


def test_of_an_attention_that_was_measured_twice_the_first_time_is_shown():
    shared = ATTENTION | {"run": "forward", "limit_share": 0.25}
    rows = [
        shared | {"name": "ours", "milliseconds": 0.02, "cold_ms": 0.03, "ratio": 1.0},
        shared | {"name": "unfused", "milliseconds": 0.1, "cold_ms": 0.1, "ratio": 5.0},
        shared | {"name": "ours", "milliseconds": 0.04, "cold_ms": 0.05, "ratio": 1.0},
        shared | {"name": "reference", "milliseconds": 0.4, "cold_ms": 0.4, "ratio": 10.0},
    ]
    *_, table = summary({"attention": rows})
    assert table.splitlines()[-1] == "| key_aware_shared | high 5523 | grid | 20 | 30 | 25% | 5 | 10 |"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.123456, "0.1235"),
        (12345.6, "12346"),
        ("a|b\nc", "a\\|b c"),
        ("add<float>(char*)", "add\\<float>(char\\*)"),
        ("aten::_to_copy_", "aten::\\_to_copy\\_"),
    ],
)
def test_cells_are_short(value, text):
    assert cell(value) == text


NCU = """==PROF== Connected to process 7
"ID","Process ID","Process Name","Host Name","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","7","python3","127.0.0.1","forward_kernel","gpu__time_duration.sum","us","21.5"
"0","7","python3","127.0.0.1","forward_kernel","dram__bytes.sum","Mbyte","18.2"
"""


def test_counters_are_read():
    assert read_counters(NCU) == [
        {"counter": "gpu__time_duration.sum", "unit": "us", "value": "21.5"},
        {"counter": "dram__bytes.sum", "unit": "Mbyte", "value": "18.2"},
    ]
    assert read_counters("==ERROR== no permission\n") == []
