"""How many images a second loading yields: COCO's size, DETR's transforms.

LITEDETR_COCO=<folder> measures the training images of a set of yours.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine_helpers import run_config
from scale_helpers import Picture, coco, write_set

from litedetr.data import TransformConfig, build_datasets
from litedetr.engine.batches import StepBatches
from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import LoaderSettings

DETR = TransformConfig(
    train_sides=tuple(range(480, 801, 32)), max_side=1333, eval_side=800, flip=0.5, crop=True
)  # conf/transforms/detr.yaml
LARGEST = replace(DETR, train_sides=(800,), crop=False)
BATCH, IMAGES = 2, 60


@pytest.mark.slow
def test_images_a_second_by_number_of_workers(tmp_path: Path, one_rank: Ranks):
    """Two workers yield more than the process alone, which computes nothing here; figures are printed."""
    folder = os.environ.get("LITEDETR_COCO")
    if folder is None:
        folder = write_set(tmp_path / "data", [Picture(640, 480, 7)] * 30, [1, 2, 3], ".jpg")
    rates = {}
    for name, transforms in {"800x1333, flipped": LARGEST, "detr": DETR}.items():
        data = build_datasets(replace(run_config(tmp_path).data, **vars(coco(folder, transforms))), 0).train
        for workers in (0, 1, 2):
            batches = StepBatches(data, LoaderSettings(BATCH, workers, 0), one_rank, 1).from_step(0)
            for _ in range(1 + 2 * workers):  # what was fetched ahead while the workers started
                next(batches)
            start = time.perf_counter()
            for _ in range(IMAGES // BATCH):
                next(batches)
            rates[name, workers] = IMAGES / (time.perf_counter() - start)
            print(f"{name}, {workers} workers: {rates[name, workers]:.1f} images/s")
    assert all(rates[name, 2] > 0.8 * rates[name, 1] for name, _ in rates)
