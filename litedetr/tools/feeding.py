"""How many images a second the loader gives, and which step of an image takes how long."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.reduction import ForkingPickler
from typing import Annotated

import torch
from pydantic import Field

from litedetr.data import (
    CocoDetection,
    DataConfig,
    EpochSampler,
    SampleKey,
    Stopwatch,
    Workers,
    build_datasets,
    collate,
)
from litedetr.engine.loader import Loader
from litedetr.settings import Integer, Maybe, NotNegative, Number, Some, require, settings
from litedetr.tools.tables import text_table

STEPS = ("read", "decode", "augment", "resize", "pack", "hand over")
# At most eight epochs of COCO; which they are is known before they are read.
Images = Annotated[Integer, Field(ge=1, le=1_000_000)]
Keys = Sequence[SampleKey]


@settings()
class FeedingConfig:
    """The settings of conf/feeding.yaml, where they are described."""

    data: DataConfig
    batch_size: Images = 16
    num_images: Images = 128
    workers: Some[Annotated[Workers, Field(ge=1)]] = (1, 2)
    step_ms: Maybe[Annotated[Number, Field(ge=1e-3)]] = None
    seed: NotNegative = 0


@dataclass(frozen=True)
class Feeding:
    """How fast images come."""

    milliseconds: dict[str, float]  # of an image in one process, by STEPS
    rates: dict[int, float] = field(default_factory=dict)  # images a second by number of worker processes

    @property
    def together(self) -> float:
        """Milliseconds of an image, all steps."""
        return sum(self.milliseconds.values())

    @property
    def rate_per_worker(self) -> float:
        """Images a second per worker, at the largest number of workers measured, since workers share the machine."""
        most = max(self.rates)
        return self.rates[most] / most

    def workers_for(self, images_per_second: float) -> int:
        return math.ceil(images_per_second / self.rate_per_worker)

    def lines(self, config: FeedingConfig) -> Iterator[str]:
        """What to print: the steps, the rates, and how many workers a training step of `config` needs."""
        columns = [("step", "<12"), ("ms/image", ">10.2f"), ("images/s of a process", ">24.0f")]
        steps = [*self.milliseconds.items(), ("together", self.together)]
        yield text_table(columns, [(step, milliseconds, 1000 / milliseconds) for step, milliseconds in steps])
        for workers, rate in self.rates.items():
            yield f"data.num_workers={workers}: {rate:.1f} images/s"
        if config.step_ms is not None:
            wanted = 1000 * config.batch_size / config.step_ms
            yield (
                f"a step of {config.step_ms:g} ms with {config.batch_size} images takes {wanted:.0f} images/s: "
                f"data.num_workers={self.workers_for(wanted)} at {self.rate_per_worker:.1f} images/s each"
            )


def measure_feeding(config: FeedingConfig) -> Feeding:
    """Time the training set of `config` as a run of this batch size reads it; files are in the system's cache.

    Raises ConfigError if the set has fewer images than a batch.
    """
    dataset = build_datasets(config.data, config.seed).train
    expected = f"at most the number of training images ({len(dataset)})"
    require(config.batch_size <= len(dataset), "batch_size", expected, config.batch_size)
    batches = list(islice(_batches(dataset, config), math.ceil(config.num_images / config.batch_size)))
    with _one_thread():
        _time_steps(dataset, batches[:1])
        milliseconds = _time_steps(dataset, batches)
    return Feeding(milliseconds, {workers: _rate(dataset, batches, workers, config) for workers in config.workers})


@contextmanager
def _one_thread() -> Iterator[None]:
    """A loader process has only one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batches(dataset: CocoDetection, config: FeedingConfig) -> Iterator[Keys]:
    """Epoch after epoch."""
    sampler, epoch = EpochSampler(len(dataset), config.batch_size, seed=config.seed), 0
    while True:
        sampler.set_position(epoch)
        yield from sampler
        epoch += 1


def _time_steps(dataset: CocoDetection, batches: Sequence[Keys]) -> dict[str, float]:
    """Milliseconds of an image, everything in this process.

    read: the file's bytes. decode: to RGB, of the bytes that the system has kept. augment: flip, and crop with the
    resizing before it. resize: to the size of training. pack: into a batch. hand over: what a loader process sends and
    this one takes, from shared memory on.
    """
    clock = Stopwatch()
    for keys in batches:
        paths = [dataset.image_path(dataset.image_ids[key.index]) for key in keys]
        with clock("read"):
            for path in paths:
                path.read_bytes()
        samples = [dataset.sample(key, clock) for key in keys]
        with clock("pack"):
            batch = collate(samples, shared=True)
        with clock("hand over"):
            pickle.loads(ForkingPickler.dumps(batch))
    number = sum(map(len, batches))
    return {step: 1000 * clock.seconds[step] / number for step in STEPS}


def _rate(dataset: CocoDetection, batches: Sequence[Keys], workers: int, config: FeedingConfig) -> float:
    """Images a second. As many batches are under way at the end as at the start, so none is counted half."""
    prefetch = config.data.prefetch
    with Loader(dataset, cycle(batches), workers, prefetch=prefetch) as loader:
        given = iter(loader)
        for _ in islice(given, workers * (prefetch + 1)):  # those that were read while processes started
            pass
        start, number = time.perf_counter(), 0
        for images, _ in islice(given, max(len(batches), 4 * workers)):
            number += len(images)
        return number / (time.perf_counter() - start)
