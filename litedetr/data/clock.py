"""Where the time of an image goes, step by step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Clock = Callable[[str], AbstractContextManager[None]]


def untimed(step: str) -> AbstractContextManager[None]:
    return nullcontext()


class Stopwatch:
    """`with stopwatch("resize"): ...` adds what passes to stopwatch.seconds["resize"]."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start
