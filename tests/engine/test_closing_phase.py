"""The last epochs of a run, in which images have no augmentations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config

from litedetr.data import DataConfig
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.settings import ConfigError


def closing(cache: Path, epochs: int, augmentations: dict[str, float], schedule: dict | None = None) -> RunConfig:
    """Three steps an epoch."""
    config = run_config(cache, schedule)
    transforms = replace(config.data.transforms, augmentations=augmentations, closing_epochs=epochs)
    return replace(config, data=replace(config.data, transforms=transforms))


def pixels(config: RunConfig, folder: Path, steps: int) -> list[torch.Tensor]:
    batches = build_trainer(config, RunFolder(folder, None, "test"), Ranks(torch.device("cpu"))).batches.from_step(0)
    return [next(batches)[0][0].pixels for _ in range(steps)]


@pytest.mark.parametrize(
    ("length", "epochs", "augmented"),
    [
        ({"max_epochs": 3, "milestones": ()}, 0, 9),
        ({"max_epochs": 3, "milestones": ()}, 1, 6),
        ({"max_epochs": 3, "milestones": ()}, 2, 3),
        ({"max_epochs": None, "max_steps": 9, "milestones": ()}, 1, 6),
        ({"max_epochs": None, "max_steps": 7, "milestones": ()}, 1, 6),  # the last epoch has one step
        ({"max_epochs": None, "max_steps": 7, "milestones": ()}, 2, 3),
        ({"max_epochs": 3, "milestones": ()}, 3, 0),
        ({"max_epochs": 3, "milestones": ()}, 50, 0),
    ],
)
def test_the_last_epochs_are_those_of_a_run_without_augmentations(
    cache: Path, tmp_path: Path, length: dict, epochs: int, augmented: int
):
    steps = length.get("max_steps") or 9
    always = {"photometric_distortion": 1.0, "mosaic": 1.0}
    changed = pixels(closing(cache, epochs, always, length), tmp_path / "a", steps)
    plain = pixels(closing(cache, 0, {}, length), tmp_path / "b", steps)
    alike = [torch.equal(one, other) for one, other in zip(changed, plain, strict=True)]
    assert alike == [False] * augmented + [True] * (steps - augmented)


@pytest.mark.parametrize(
    ("epochs", "augmentations", "expected"),
    [
        (1, {"mosaic": 0.5}, ["data.transforms.augmentations end at step 3, before the last 1 epochs"]),
        (
            2,
            {"mosaic": 0.5},
            [
                "warning: data.transforms.closing_epochs=2 is not below the epochs of this run (2): no image gets any "
                "of data.transforms.augmentations"
            ],
        ),
        (0, {"mosaic": 0.5}, []),
        (1, {}, []),
    ],
)
def test_the_run_says_when_they_end(
    cache: Path, tmp_path: Path, capfd, epochs: int, augmentations: dict, expected: list
):
    build_trainer(closing(cache, epochs, augmentations), RunFolder(tmp_path, None, "test"), Ranks(torch.device("cpu")))
    printed = capfd.readouterr()
    lines = [line for line in (printed.out + printed.err).replace("\r", "\n").splitlines() if "augmentations" in line]
    assert [line.split("step/s]")[-1].strip() for line in lines] == expected


def test_a_number_below_zero_is_refused(cache: Path):
    config: DataConfig = run_config(cache).data
    with pytest.raises(ConfigError, match=r"^data.transforms.closing_epochs: expected at least 0, got -1$"):
        replace(config.transforms, closing_epochs=-1)
