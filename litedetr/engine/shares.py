"""What the micro-batches of a step share: one normaliser, one number of denoising groups, one stream of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from litedetr.engine.distributed import Ranks
from litedetr.structures import Share, TargetBatch


def as_shares(batches: Sequence[TargetBatch], ranks: Ranks, seed: int) -> list[TargetBatch]:
    """A rank's micro-batches with the normaliser and the largest object count of the whole batch, and their place in
    it. The whole batch is that of all micro-batches of all ranks.
    """
    counts = [count for batch in batches for count in batch.counts]
    shared = ranks.gather_numbers(sum(counts), max(counts, default=0), *map(len, batches))
    num_boxes = max(sum(row[0] for row in shared), 1.0)
    max_objects = int(max(row[1] for row in shared))
    # (micro-batches, ranks), which is the order of the images: EpochSampler deals them out so.
    sizes = np.array([row[2:] for row in shared], dtype=int).T
    first = (sizes.cumsum().reshape(sizes.shape) - sizes)[:, ranks.rank].tolist()
    shares = [Share(start, int(sizes.sum()), seed) for start in first]
    numbers = {"num_boxes": num_boxes, "max_objects": max_objects}
    return [replace(batch, share=share, **numbers) for batch, share in zip(batches, shares, strict=True)]


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed in [0, 2^63) of its own for every step and stream of random numbers."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
