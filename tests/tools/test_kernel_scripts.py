"""scripts/benchmark.py and scripts/autotune.py as a user runs them."""

import csv
import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from engine_helpers import MODEL
from triton.errors import TritonError

from litedetr.kernels.bench import tuning
from litedetr.kernels.bench.counts import num_samples
from litedetr.kernels.bench.resources import Program, parse_target
from litedetr.kernels.fused.launch import Launch, rule
from litedetr.kernels.inputs import Score
from litedetr.models.detector_config import AttentionKind
from litedetr.tools import autotune
from litedetr.tools.autotune import AutotuneConfig, Gpu, compile_ahead, compile_all, jobs_of, measure_all

ROOT = Path(__file__).parent.parent.parent


def run(script, *overrides):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *overrides], capture_output=True, text=True, cwd=ROOT
    )


def test_benchmark_prints_and_writes_checked_rows(tmp_path):
    result = run(
        "benchmark.py", "rows=[kernels]", "image_size=[64,96]", "rounds=1", "device=cpu", "threads=1",
        "kernels.heads=2", "kernels.channels=8", "kernels.scores=[key_aware_shared,deformable]",
        "kernels.peers=[reference,unfused]",
        f"output={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = list(csv.DictReader((tmp_path / "kernels.csv").open()))
    # (high, all) x (grid, random) and the decoder, forward and training, ours and two peers
    assert len(rows) == 2 * 5 * 2 * 3
    assert {row["name"] for row in rows} == {"ours", "reference", "unfused"}
    assert all(float(row["milliseconds"]) > 0 and float(row["out_error"]) < 1e-4 for row in rows)
    assert all(row["timed"] == "eager" and row["milliseconds"] == row["eager_ms"] for row in rows)
    assert all(row["warm_ms"] == row["cold_ms"] == row["host_us"] == "" for row in rows)  # of a GPU only
    assert all(float(row["peak_mib"]) > 0 and float(row["grad_error"]) < 1e-4 for row in rows)
    shares = [float(row["limit_share"]) * float(row["milliseconds"]) / float(row["limit_ms"]) for row in rows]
    assert shares == pytest.approx([1.0] * len(rows))
    assert {row["torch"] for row in rows} == {torch.__version__}
    assert len(result.stdout.splitlines()) >= len(rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tunes the GPU")
def test_autotune_says_what_it_needs():
    result = run("autotune.py")
    assert result.returncode == 2
    assert "autotune: expected a GPU" in result.stderr
    assert "target=sm_90" in result.stderr


def test_autotune_names_a_wrong_target():
    result = run("autotune.py", "target=h100")
    assert result.returncode == 2
    assert "target: expected sm_<number> or gfx<number>, got 'h100'" in result.stderr


AMD = """
\tv_exp_f32_e32 v1, v1
.LBB0_1:
\tv_fma_f32 v0, v1, v2, v3
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
    .vgpr_count:     58
    .private_segment_fixed_size: 0
"""


def test_autotune_says_what_is_needed_and_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a kernel with a loop over the levels, of one whose loop was unrolled, of one whose trips are not known; and
    of two launches of the first one together.
    """
    jobs = jobs_of(settings(tmp_path, dtypes=("float32",), passes=("forward",)), MODEL)[:1]
    samples = num_samples(jobs[0])
    code = {"forward_kernel": AMD, "backward_kernel": AMD.replace("s_cbranch_scc1 .LBB0_1", "s_nop 0"), "another": AMD}
    programs = [
        Program(name, (samples, 1, 1), 4, 0, {"amdgcn": text}, parse_target("gfx942")) for name, text in code.items()
    ]
    found = iter([*([program] for program in programs), [programs[0], programs[0]]])
    monkeypatch.setattr(autotune, "candidates", lambda shape: [rule(shape)] * 4)
    monkeypatch.setattr(autotune, "compile_job", lambda *_: next(found))
    _, counted, unrolled, another, together = compile_all(jobs, "gfx942")
    levels = len(jobs[0].workload.shapes)
    assert "  58 registers     0 bytes spilled  32 warps  rule  " in counted
    text = f"(fma {4.0 * levels}, xu 4.0, other {4.0 * levels + 4})"  # four warps a sample
    assert counted.endswith(f"{8.0 * levels + 8} instructions a sample {text}")
    assert "not counted: trips: expected one of each loop" in unrolled
    assert another.endswith("not counted: another: the trips of its loops are not known")
    assert f"  {16.0 * levels + 16} instructions a sample " in together


def test_autotune_says_which_launch_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And goes on."""
    jobs = jobs_of(settings(tmp_path, dtypes=("float32",), passes=("forward",)), MODEL)[:1]

    def fail(*_: object) -> None:
        raise TritonError("in a function") from AssertionError("K >= 16\nat least")

    monkeypatch.setattr(autotune, "candidates", lambda shape: [rule(shape), Launch(2, 1)])
    monkeypatch.setattr(autotune, "compile_job", fail)
    _, first, second = compile_all(jobs, "sm_90")
    assert first.startswith("  block_queries 32, num_warps 4, tile_height 1 ")
    assert second.startswith("  block_queries 2, num_warps 1, tile_height 1 ")
    assert all(line.endswith("  does not compile: AssertionError: at least") for line in (first, second))


def test_autotune_starts_no_more_processes_than_a_machine_can_have():
    result = run("autotune.py", "workers=100000")
    assert (result.returncode, result.stdout) == (2, "")
    assert "workers: expected at most 1024, got 100000" in result.stderr


def settings(tmp_path: Path, **changed) -> AutotuneConfig:
    usual = {"dtypes": ("float32", "bfloat16"), "passes": ("forward", "backward"), "repetitions_ms": 1, "workers": 0}
    rest = {"budget_s": None, "compile_s": 60, "target": None, "output": str(tmp_path)}
    return AutotuneConfig(**{"image_size": (64, 64), "batch_size": 1} | usual | rest | changed)


def test_the_kernels_name_attentions_as_the_detector_does():
    assert set(get_args(Score)) == set(get_args(AttentionKind))


def test_autotune_begins_with_the_most_valuable(tmp_path: Path):
    """bf16, then the backward passes of what has the most samples."""
    jobs = jobs_of(settings(tmp_path), MODEL)
    assert [job.rank for job in jobs] == sorted(job.rank for job in jobs)
    assert [job.workload.dtype for job in jobs] == [torch.bfloat16] * (len(jobs) // 2) + [torch.float32] * (
        len(jobs) // 2
    )
    assert jobs[0].pass_name == "backward"
    assert {job.calls for job in jobs} == {1, 2}  # of encoder and decoder layers
    assert len(set(jobs)) == len(jobs)


def test_autotune_measures_keeps_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Without a GPU in the interpreter. Times are made up. The last job finds no time."""
    monkeypatch.setattr(tuning, "candidates", lambda shape: [rule(shape), Launch(2, 1), Launch(4, 1)])
    monkeypatch.setattr(tuning, "variants", lambda *_: [])
    config = settings(tmp_path, dtypes=("float32",), passes=("forward",), budget_s=1000.0)
    jobs = jobs_of(config, MODEL)
    milliseconds = iter([3.0, 1.5, 2.0] * len(jobs))
    clock = iter([0.0] + [1.0] * (4 * len(jobs) - 1) + [2000.0] * 9)
    monkeypatch.setattr(autotune.time, "monotonic", lambda: next(clock))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told = list(measure_all(jobs, config, Gpu("A GPU", device, lambda call: next(milliseconds))))
    (path,) = tmp_path.iterdir()
    entries = json.loads(path.read_text())["entries"]
    assert {entry["launch"]["block_queries"] for entry in entries} == {2}
    assert len(re.findall(r"3\.000 ms +1\.500 ms +2\.00  block_queries 2, num_warps 1, tile_height 1", told[0])) >= 1
    assert "the time was up" in capsys.readouterr().out
    assert told[-1] == str(path)


def test_autotune_tunes_the_current_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(autotune, "replays", lambda device, repetitions: (device, repetitions))
    device = torch.device("cuda", 3)
    assert Gpu.current(30) == Gpu("GPU 3", device, (device, 30))


def test_autotune_compiles_ahead_for_the_gpu_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun = []

    class Compilers(ExitStack):
        def __init__(self, *arguments):
            super().__init__()
            begun.append(arguments)

    monkeypatch.setattr(autotune, "Compilers", Compilers)
    monkeypatch.setattr(autotune, "driver", SimpleNamespace(active=SimpleNamespace(get_current_target=lambda: "here")))
    config = settings(tmp_path, workers=3)
    jobs = jobs_of(config, MODEL)
    with ExitStack() as stack:
        found = compile_ahead(jobs, config, 5.0, stack)
        assert compile_ahead(jobs, settings(tmp_path, workers=0), 5.0, stack) is None
    assert begun == [("here", 3, 60)]
    assert (len(found.jobs), found.deadline) == (len(jobs), 5.0)
