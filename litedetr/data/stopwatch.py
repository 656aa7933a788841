"""Clocks that time the steps of loading an image."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Clock = Callable[[str], AbstractContextManager[object]]  # contextlib.nullcontext is one that measures nothing


class Stopwatch:
    """A Clock: `with stopwatch("resize"): ...` adds the time it takes to stopwatch.seconds["resize"].

    The time of a step within another one counts for the inner step only.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = 0.0  # seconds of steps within the one that is being timed

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        outer, self._inner = self._inner, 0.0
        start = time.perf_counter()
        yield
        whole = time.perf_counter() - start
        self.seconds[step] += whole - self._inner
        self._inner = outer + whole
