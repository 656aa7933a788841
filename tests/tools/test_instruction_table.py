"""The table of instructions of scripts/benchmark.py; what is counted is made up."""

import csv
from pathlib import Path

import pytest

pytest.importorskip("triton")

import triton

from litedetr.cli.compose import compose
from litedetr.kernels.bench.disassembly import PIPES
from litedetr.kernels.bench.instruction_rows import Counting, Row
from litedetr.kernels.bench.peer_kernels import PEER_KERNELS
from litedetr.settings import ConfigError, from_mapping
from litedetr.tools.benchmark import time_rows
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.instruction_table import count


def row(who: str, dtype: str, total: float, **changed: object) -> Row:
    """Of the forward pass on sm_90."""
    what = {
        "pass_name": "forward",
        "score": "deformable",
        "queries": 5523,
        "target": "sm_90",
        "triton": triton.__version__,
    }
    needs = {"registers": 80, "warps": 24, "spilled": 0, "note": ""}
    return Row(who=who, dtype=dtype, total=total, **dict.fromkeys(PIPES, 1.0) | what | needs | changed)


def table(path: Path, rows: list[Row | str], monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[str]:
    """The lines that are printed."""
    jobs = []
    monkeypatch.setattr(Counting, "rows", lambda self, given: jobs.extend(given) or iter(rows))
    config = from_mapping(BenchmarkConfig, compose("benchmark", ["rows=[instructions]", *overrides]))
    printed = "\n".join(count(config, path)).splitlines()
    assert len(jobs) == 3 * 3 * 2  # passes, scores, precisions
    assert {job.workload.queries for job in jobs} == {5523}
    return printed


def test_what_was_counted_before_stays_beside_what_is_counted_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "counts.csv"
    backward = row("ours", "float32", 60.0, pass_name="backward", warps=None)
    before = [row("before", "bfloat16", 31.25), row("ours", "bfloat16", 30.0), backward]
    table(path, before, monkeypatch)
    now = [row("deformops", "bfloat16", 27.7), row("ours", "float32", 17.0), row("ours", "bfloat16", 16.0), "why not"]
    now.append(row("new", "bfloat16", 15.0))
    lines = table(path, now, monkeypatch)
    assert [line[:41].split() for line in lines if line[:1].isalpha() and "Warp" not in line] == [
        ["why", "not"],
        ["forward,", "deformable,", "5523", "total"],
        ["before", "bfloat16", "31.2"],
        ["ours", "bfloat16", "16.0"],
        ["new", "bfloat16", "15.0"],
        ["deformops", "bfloat16", "27.7"],
        ["ours", "float32", "17.0"],
        ["backward,", "deformable,", "5523", "total"],
        ["ours", "float32", "60.0"],
    ]
    assert lines[-1] == str(path)
    with path.open() as file:
        assert [float(found["total"]) for found in csv.DictReader(file)] == [31.25, 16.0, 60.0, 27.7, 17.0, 15.0]


def test_rows_of_other_targets_and_versions_are_kept_but_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "counts.csv"
    rows = [
        row("ours", "float32", 1.0, target="sm_80"),
        row("ours", "float32", 2.0, triton="3.0"),
        row("ours", "float32", 3.0),
    ]
    lines = table(path, rows, monkeypatch)
    assert [line.split()[2] for line in lines if line.startswith("ours")] == ["3.0"]
    assert len(path.read_text().splitlines()) == 1 + 3


def test_the_settings_know_every_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    peers = ",".join(PEER_KERNELS)
    table(tmp_path / "counts.csv", [], monkeypatch, f"instructions.peers=[{peers}]")
    with pytest.raises(ConfigError) as error:
        table(tmp_path / "counts.csv", [], monkeypatch, "instructions.peers=[another]")
    assert all(repr(peer) in str(error.value) for peer in PEER_KERNELS)


def test_without_triton_the_error_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time_rows, "find_spec", lambda name: None)
    config = from_mapping(BenchmarkConfig, compose("benchmark", ["rows=[instructions]"]))
    with pytest.raises(ConfigError, match="^rows: expected no instructions without Triton"):
        next(time_rows.count_instructions(config, None, compose))
