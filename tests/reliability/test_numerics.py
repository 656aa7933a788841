"""Numbers are the same again, in every precision near enough, and never NaN."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_digest import digests
from engine_helpers import build_step
from fault_helpers import REPEATABLE, assert_identical, left_by
from test_scripts import ROOT, run

from litedetr.engine.distributed import Ranks
from litedetr.engine.train_step import TrainStep
from litedetr.structures import ImageBatch
from litedetr.tools.random_batch import random_targets

TRAIN = str(ROOT / "scripts" / "train.py")
OLD_PROCESSOR = {  # no instructions younger than SSE 4.2
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    "OPENBLAS_CORETYPE": "Nehalem",
    "ATEN_CPU_CAPABILITY": "default",
}


def test_deterministic_mode_gives_the_same_losses_in_two_processes(cache: Path, tmp_path: Path):
    """And the same weights, with loader processes, to the last bit."""
    left = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        done = run(folder, "train", *REPEATABLE, "data.num_workers=2", f"data.shapes.cache={cache}", "run=again")
        assert done.returncode == 0, done.stderr
        left.append(left_by(folder / "runs" / "again"))
    assert len(left[0]["metrics"]) == 16
    assert_identical(*left)


def test_a_seed_gives_the_same_data_on_any_machine(tmp_path: Path):
    """Another digest means other data for the same seed: raise the drawing's version, and say so where it is read.

    Pillow's JPEG, PyTorch's resizing of bytes and numpy's random streams are part of it.
    """
    assert digests(tmp_path) == {
        "annotations": "31efaeb61a68eb14",
        "images": "f82c7d73af60d7d0",
        "order": "9e56da9171572411",
        "training samples": "0f7d7f607f2373c8",
        "validation samples": "aa9f731407c9321e",
    }


def test_an_old_processor_draws_the_same_data(tmp_path: Path):
    child = [sys.executable, str(Path(__file__).with_name("data_digest.py")), str(tmp_path / "old")]
    done = subprocess.run(
        child, env={**os.environ, **OLD_PROCESSOR, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests(tmp_path / "own")


def large_batch(step: int) -> tuple[ImageBatch, object]:
    """Two noise images of unequal sizes, as large as 1 to 1,000 deviations of a real image, with 0 to 8 objects."""
    generator = torch.Generator().manual_seed(step)
    scale = 10 ** float(torch.rand((), generator=generator) * 3)
    sides = torch.randint(33, 97, (2, 2), generator=generator).tolist()
    images = [torch.randn(3, *size, generator=generator) * scale for size in sides]
    num_objects = int(torch.randint(0, 9, (), generator=generator))
    return ImageBatch.from_images(images), random_targets((64, 64), 2, num_objects, num_classes=5)


def steps_on_large_inputs(step: TrainStep, number: int) -> list[float]:
    """Gradient norms; every loss and every weight was finite."""
    norms = []
    for index in range(number):
        result = step(index, [large_batch(index)])
        assert math.isfinite(result.loss)
        norms.append(result.grad_norm)
    assert all(p.isfinite().all() for p in step.model.parameters())
    return norms


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_large_inputs_give_no_nan(one_rank: Ranks, precision: str):
    steps_on_large_inputs(build_step(one_rank, precision=precision), 10)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_500_steps_on_large_inputs_give_no_nan(one_rank: Ranks, precision: str):
    step = build_step(one_rank, precision=precision)
    norms = steps_on_large_inputs(step, 500)
    left_out = sum(not math.isfinite(norm) for norm in norms)
    scale = step.update.scaler.get_scale()
    print(f"\n{precision}: 500 steps, {left_out} left out by the scaler, scale {scale:g} at the end")
    assert left_out <= 20


@pytest.fixture(scope="module")
def full_precision_ap(tmp_path_factory: pytest.TempPathFactory) -> float:
    return default_run(tmp_path_factory.mktemp("default") / "fp32", "fp32")


def default_run(folder: Path, precision: str) -> float:
    """AP of the first command of the README with AdamW, on what this machine has."""
    folder.mkdir()
    settings = ["encoder=h3l1", "a=6", "b=1", f"trainer.precision={precision}", "run=default"]
    settings.append("schedule.optimizer=adamw")  # Muon does not go together with fp16
    without_fp16 = precision == "fp16" and not torch.cuda.is_available()
    helper = [str(Path(__file__).with_name("products_in_fp32.py"))] if without_fp16 else []
    subprocess.run([sys.executable, *helper, TRAIN, *settings], cwd=folder, check=True)
    return json.loads((folder / "runs" / "default" / "results.json").read_text())["AP"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_reaches_the_ap_of_fp32(full_precision_ap: float, tmp_path: Path, precision: str):
    ap = default_run(tmp_path / precision, precision)
    print(f"\n{precision}: AP {ap:.3f}, fp32: AP {full_precision_ap:.3f}")
    assert ap >= full_precision_ap - 0.02
