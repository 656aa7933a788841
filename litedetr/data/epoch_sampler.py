"""Which items make up which batch, on which rank: a pure function of (seed, epoch, batch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import get_worker_info

from litedetr.structures import ImageBatch, Target, TargetBatch


class SampleKey(NamedTuple):
    """Which item, and in which epoch: together with the seed this decides its augmentation."""

    epoch: int
    index: int


@dataclass(frozen=True)
class Sample:
    """An image and its objects."""

    image: Tensor  # (3, h, w) uint8 RGB
    target: Target


def collate(samples: Sequence[Sample], shared: bool | None = None) -> tuple[ImageBatch, TargetBatch]:
    """Batch samples; images are padded to a common size.

    shared: in shared memory, from which another process takes the images without a copy; None: if this is a loader
    process.
    """
    shared = get_worker_info() is not None if shared is None else shared
    images = ImageBatch.from_images([sample.image for sample in samples], shared)
    return images, TargetBatch.from_targets([sample.target for sample in samples])


class EpochSampler:
    """Yields this rank's batches of SampleKeys, for DataLoader's `batch_sampler`.

    world_size * batch_size samples form a global batch: global batch k is the k-th such piece of the epoch's
    permutation, whatever the world size, and every rank takes its contiguous part; what is left over is dropped.
    training: False keeps the items' order, and shares the last piece out as evenly as it goes: every item exactly once,
    but a rank may get one batch less.

    Call `set_position` before iterating; it makes a resumed epoch continue at any batch.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        training: bool = True,
    ) -> None:
        self.num_items, self.seed, self.training = num_items, seed, training
        self.rank, self.world_size = rank, world_size
        self.global_batch = batch_size * world_size
        whole, rest = divmod(num_items, self.global_batch)
        if training and whole == 0:
            raise ValueError(f"a batch of {self.global_batch} over all ranks is more than the {num_items} images")
        has_part = not training and rank * rest // world_size < (rank + 1) * rest // world_size
        self._num_batches = whole + has_part
        self._epoch, self._first_batch = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return self._num_batches

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """Let the next iteration be that of `epoch` from its batch `first_batch` on."""
        self._epoch, self._first_batch = epoch, first_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order, epoch = self._order(self._epoch), self._epoch
        for batch in range(self._first_batch, self._num_batches):
            piece = order[batch * self.global_batch : (batch + 1) * self.global_batch]
            start, end = (r * len(piece) // self.world_size for r in (self.rank, self.rank + 1))
            yield [SampleKey(epoch, int(index)) for index in piece[start:end]]

    def _order(self, epoch: int) -> np.ndarray:
        if not self.training:
            return np.arange(self.num_items)
        sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
        return np.random.default_rng(sequence).permutation(self.num_items)
