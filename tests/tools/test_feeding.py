"""What the loader gives: the steps of an image add up, rates are those of the workers, and a step is fed by enough."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config

from litedetr.data import CocoDetection, SampleKey, Stopwatch, TransformConfig, build_datasets
from litedetr.settings import ConfigError
from litedetr.tools.feeding import STEPS, Feeding, FeedingConfig, measure_feeding

ROOT = Path(__file__).resolve().parents[2]
AUGMENTED = TransformConfig((56, 72), 100, 64, 0.5, True, crop_resize_sides=(48, 64), crop_range=(32, 48))


def feeding(cache: Path, **changes: object) -> FeedingConfig:
    data = replace(run_config(cache).data, transforms=AUGMENTED)
    return FeedingConfig(data, **{"batch_size": 4, "num_images": 8, "workers": (1,), **changes})


def test_a_clocked_sample_is_that_of_training(cache: Path):
    data = build_datasets(feeding(cache).data, 0).train
    clock = Stopwatch()
    for key in (SampleKey(0, 3), SampleKey(5, 7)):
        timed, plain = data.sample(key, clock), data[key]
        assert torch.equal(timed.image, plain.image)
        assert torch.equal(timed.target.boxes, plain.target.boxes)
    assert set(clock.seconds) == {"decode", "augment", "resize"}


@pytest.mark.parametrize(
    ("step", "module", "name"),
    [("decode", "coco_dataset", "read_image"), ("resize", "augmentations.pipeline", "resize")],
)
def test_time_counts_for_its_step(cache: Path, monkeypatch: pytest.MonkeyPatch, step: str, module: str, name: str):
    target = f"litedetr.data.{module}.{name}"
    whole = getattr(sys.modules[f"litedetr.data.{module}"], name)
    monkeypatch.setattr(target, lambda *arguments: (time.sleep(0.02), whole(*arguments))[1])
    config = feeding(cache)
    config = replace(config, data=replace(config.data, transforms=replace(AUGMENTED, crop=False)))
    found = measure_feeding(config).milliseconds
    assert tuple(found) == STEPS
    assert found[step] >= 20
    assert all(0 < found[other] < 20 for other in STEPS if other != step)


def test_other_images_count_as_decoding_and_not_twice(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """A mosaic reads three more, within the step `augment`, which would have 150 ms of sleep if they counted for it."""
    whole = sys.modules["litedetr.data.coco_dataset"].read_image
    monkeypatch.setattr(
        "litedetr.data.coco_dataset.read_image", lambda *arguments: (time.sleep(0.05), whole(*arguments))[1]
    )
    config = feeding(cache)
    transforms = replace(AUGMENTED, augmentations={"mosaic": 1.0})
    found = measure_feeding(replace(config, data=replace(config.data, transforms=transforms))).milliseconds
    assert found["decode"] >= 200
    assert found["augment"] < 100


def test_a_step_within_a_step_counts_for_itself():
    clock = Stopwatch()
    with clock("outer"):
        time.sleep(0.01)
        for _ in range(2):
            with clock("inner"):
                time.sleep(0.02)
                with clock("innermost"):
                    time.sleep(0.03)
    assert set(clock.seconds) == {"outer", "inner", "innermost"}
    for step, seconds in (("outer", 0.01), ("inner", 0.04), ("innermost", 0.06)):
        assert seconds <= clock.seconds[step] < seconds + 0.03  # counted twice, outer would have 0.11 and inner 0.1


def test_workers_give_what_they_load(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Slow images: two processes give twice as many as one, and no more than that."""
    whole = CocoDetection.sample
    monkeypatch.setattr(CocoDetection, "sample", lambda *arguments: (time.sleep(0.1), whole(*arguments))[1])
    rates = measure_feeding(feeding(cache, workers=(1, 2))).rates
    assert 5 < rates[1] <= 10.5
    assert 1.5 * rates[1] < rates[2] <= 21


def test_a_step_is_fed_by_enough_workers():
    found = Feeding({"read": 1.0, "decode": 4.0}, {1: 40.0, 4: 100.0})
    assert (found.together, found.rate_per_worker) == (5.0, 25.0)
    assert [found.workers_for(wanted) for wanted in (1, 25, 26, 160)] == [1, 1, 2, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 13}, r"batch_size: expected at most the number of training images \(12\), got 13"),
        ({"num_images": 0}, "num_images: expected at least 1, got 0"),
        ({"workers": ()}, "workers: expected a list of at least 1, got"),
        ({"workers": (0,)}, r"workers\[0\]: expected at least 1, got 0"),
        ({"step_ms": 0.0}, "step_ms: expected at least 0.001"),
        ({"step_ms": 1e-320}, "step_ms: expected at least 0.001, got 1e-320"),
        ({"num_images": 10**10}, "num_images: expected at most 1000000, got 10000000000"),
    ],
)
def test_settings_that_cannot_work_are_named(cache: Path, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        measure_feeding(feeding(cache, **changes))


def test_the_script_prints_the_steps_and_the_workers_of_a_step(tmp_path: Path, cache: Path):
    shapes = [f"data.shapes.cache={cache}", "data.shapes.num_train=12", "data.shapes.num_val=5", "data.prefetch=1"]
    settings = [*shapes, "batch_size=4", "num_images=8", "workers=[1]", "step_ms=10"]
    command = [sys.executable, str(ROOT / "scripts" / "feeding.py"), *settings]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line[:12].strip() for line in lines[:8]] == ["step", *STEPS, "together"]
    milliseconds = [float(line[12:].split()[0]) for line in lines[1:8]]
    assert sum(milliseconds[:-1]) == pytest.approx(milliseconds[-1], abs=0.05)
    assert re.fullmatch(r"data\.num_workers=1: [\d.]+ images/s", lines[8])
    assert re.fullmatch(
        r"a step of 10 ms with 4 images takes 400 images/s: data\.num_workers=\d+ at [\d.]+ images/s each", lines[9]
    )
