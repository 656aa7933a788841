"""Training in double precision, where sums in another order differ by nothing that matters.

As a script it is one of torchrun's processes and trains what its argument, a file, lists: `[[folder, config], ...]`.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from litedetr.engine.batches import StepBatches
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import Ranks, join_ranks
from litedetr.engine.loader import Loader, MicroBatch
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.trainer import Trainer
from litedetr.settings import from_mapping


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def double(batch: MicroBatch) -> MicroBatch:
    images, targets = batch
    return replace(images, pixels=images.normalised().pixels.double()), replace(targets, boxes=targets.boxes.double())


@dataclass(frozen=True)
class DoubleBatches:
    batches: StepBatches

    @property
    def loader(self) -> Loader:
        return self.batches.loader

    def from_step(self, step: int) -> Iterator[list[MicroBatch]]:
        return ([double(batch) for batch in batches] for batches in self.batches.from_step(step))


@dataclass(frozen=True)
class DoubleLoader:
    loader: Loader

    def __iter__(self) -> Iterator[MicroBatch]:
        return map(double, self.loader)

    def __enter__(self) -> Loader:
        return self.loader.__enter__()

    def __exit__(self, *exception: object) -> None:
        self.loader.__exit__(*exception)


def train_in_double(config: RunConfig, folder: Path, ranks: Ranks) -> Trainer:
    """Train to the end, or to stop_after; continue where `folder` holds a checkpoint."""
    last = folder / "last.pt"
    with double_precision():
        trainer = build_trainer(config, RunFolder(folder, last if last.exists() else None, "test"), ranks)
        trainer.batches = DoubleBatches(trainer.batches)
        trainer.evaluator.batches = DoubleLoader(trainer.evaluator.batches)
        trainer.run()
    return trainer


def main() -> None:
    torch.set_num_threads(1)
    with join_ranks("cpu") as ranks:
        for folder, config in json.loads(Path(sys.argv[1]).read_text()):
            train_in_double(from_mapping(RunConfig, config), Path(folder), ranks)


if __name__ == "__main__":
    main()
