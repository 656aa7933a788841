"""A run that was stopped and continued ends as one that never was, with all of the data's randomness."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config, train
from fault_helpers import assert_identical, left_by

from litedetr.data import TransformConfig
from litedetr.data.augmentations import AUGMENTATIONS
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import Ranks, use_deterministic_algorithms
from litedetr.engine.resume import choose_run_folder
from litedetr.engine.run_config import RunConfig

# Every kind of randomness: three sizes, crops half of the time, flips, other images; the second epoch has no mosaic.
AUGMENTED = TransformConfig(
    train_sides=(40, 48, 56),
    max_side=80,
    eval_side=48,
    flip=0.5,
    crop=True,
    crop_resize_sides=(48, 64),
    crop_range=(32, 48),
    augmentations=dict.fromkeys(AUGMENTATIONS, 0.5),
    closing_epochs=1,
)


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    use_deterministic_algorithms()
    yield
    torch.use_deterministic_algorithms(False)


def augmented(cache: Path, num_workers: int) -> RunConfig:
    config = run_config(cache)
    return replace(config, data=replace(config.data, transforms=AUGMENTED, num_workers=num_workers))


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never stopped, read by the training process itself."""
    folder = tmp_path_factory.mktemp("whole")
    train(augmented(cache, 0), folder, Ranks(torch.device("cpu")))
    return folder


def but_for(num_workers: int, folder: Path) -> dict:
    """What the run left, as if it had had `num_workers`."""
    left = left_by(folder)
    for name in ("last", "best"):
        left[name]["config"]["data"]["num_workers"] = num_workers
        left[name]["config"]["trainer"] |= {"stop_after": None, "resume": "never"}
    return left


@pytest.mark.parametrize(
    ("first_workers", "then_workers"), [(0, 2), (2, 0), pytest.param(2, 2, marks=pytest.mark.slow)]
)
def test_augmentation_and_order_go_on_where_they_stopped(
    whole: Path, cache: Path, tmp_path: Path, one_rank: Ranks, first_workers: int, then_workers: int
):
    """In the middle of the first epoch, and of the second, whoever reads the images."""
    first, then = augmented(cache, first_workers), augmented(cache, then_workers)
    for stop_after in (2, 4):
        train(replace(first, trainer=replace(first.trainer, stop_after=stop_after)), tmp_path, one_rank)
    torch.rand(7)
    train(then, tmp_path, one_rank)
    assert_identical(but_for(0, tmp_path), but_for(0, whole))


def test_a_run_goes_on_in_another_folder(whole: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    """Its numbers begin where it was continued; the first folder stays as it was."""
    config = augmented(cache, 0)
    first = tmp_path / "first"
    train(replace(config, trainer=replace(config.trainer, stop_after=4)), first, one_rank)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    elsewhere = replace(config, trainer=replace(config.trainer, resume=str(first / "last.pt")))
    build_trainer(elsewhere, choose_run_folder(tmp_path, "second", elsewhere), one_rank).run()
    second, expected = but_for(0, tmp_path / "second"), but_for(0, whole)
    for name in ("last", "results"):
        assert_identical(second[name], expected[name], name)
    assert [(line["kind"], line["step"]) for line in second["metrics"]] == [
        ("train", 5),
        ("train", 6),
        ("evaluation", 6),
    ]
    assert_identical(second["metrics"], expected["metrics"][-3:])
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
