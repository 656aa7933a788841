"""Clocks that time the steps of loading an image."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Clock = Callable[[str], AbstractContextManager[object]]  # contextlib.nullcontext is one that measures nothing


class Stopwatch:
    """A Clock: `with stopwatch("resize"): ...` adds the time it takes to stopwatch.seconds["resize"]."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start
