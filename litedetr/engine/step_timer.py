"""How fast steps follow each other, and how much of their time they wait for their images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TOO_LONG = 0.2  # a share of the time that is worth a note
ENOUGH = 20  # steps, at least, before there is a note


@dataclass(frozen=True)
class StepTimes:
    """How long some steps took."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # the seconds among them in which the next images were not there yet

    def __add__(self, other: StepTimes) -> StepTimes:
        return StepTimes(self.steps + other.steps, self.seconds + other.seconds, self.waited + other.waited)

    @property
    def data_share(self) -> float:
        """In [0, 1]; 0 of no time at all."""
        return self.waited / self.seconds if self.seconds else 0.0


class StepTimer:
    """Times steps. What passes before a `restart`, such as an evaluation, is not counted.

    On a GPU a step is over when its loss is known on the host, so waiting is not mistaken for computing.
    """

    def __init__(self) -> None:
        self.steady = StepTimes()  # without those taken first: loader processes start, no file is cached
        self._is_first, self._is_told = True, False
        self.restart()

    def restart(self) -> None:
        self._start, self._now = time.perf_counter(), StepTimes()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A step begins, and within this it waits for its images."""
        start = time.perf_counter()
        yield
        self._now += StepTimes(steps=1, waited=time.perf_counter() - start)

    def take(self) -> StepTimes:
        """Of the steps since the last `take` or `restart`."""
        found = self._now + StepTimes(seconds=time.perf_counter() - self._start)
        if not self._is_first:
            self.steady += found
        self._is_first = False
        self.restart()
        return found

    def note(self, num_workers: int) -> str | None:
        """What to say of a run that waits too long for its images, once."""
        if self._is_told or self.steady.steps < ENOUGH or self.steady.data_share <= TOO_LONG:
            return None
        self._is_told = True
        return (
            f"{self.steady.data_share:.0%} of the time is spent waiting for images: raise data.num_workers "
            f"(now {num_workers}) if there are free cores"
        )
