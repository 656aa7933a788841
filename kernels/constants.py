"""Constants on a device that depend on sizes alone: made once and kept, so that no launch waits for a copy.

A CUDA graph reads them at every replay, by their address and perhaps long after they have left the cache: whoever
captures one holds what `constants_held` collects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps

from torch import Tensor

MOST = 1024  # of each function
_holders: list[list[Tensor]] = []


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`make`, whose last results are kept by its arguments; they are never written to."""
    cached = lru_cache(maxsize=MOST)(make)

    @wraps(make)
    def get(*key: object) -> Tensor:
        constant = cached(*key)
        for holder in _holders:
            holder.append(constant)
        return constant

    return get


@contextmanager
def constants_held() -> Iterator[list[Tensor]]:
    """Collects the constants that are asked for while it is entered."""
    holder: list[Tensor] = []
    _holders.append(holder)
    try:
        yield holder
    finally:
        _holders[:] = [other for other in _holders if other is not holder]
