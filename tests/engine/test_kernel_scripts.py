"""scripts/benchmark.py and scripts/autotune.py as a user runs them."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


def run(script, *overrides):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *overrides], capture_output=True, text=True, cwd=ROOT
    )


def test_benchmark_prints_and_writes_checked_rows(tmp_path):
    result = run(
        "benchmark.py", "rows=[kernels]", "image_size=[64,96]", "rounds=1", "device=cpu", "threads=1",
        "kernels.heads=2", "kernels.channels=8", "kernels.scores=[shared,logits]", "kernels.peers=[reference,unfused]",
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
