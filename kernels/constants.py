"""Small tensors that depend only on sizes and are kept on the device, so that no call waits for a copy to it.

A CUDA graph reads them at every replay, by their address, perhaps long after their cache has dropped them. So the code
that captures a graph keeps what `constants_held` collects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

MOST_KEPT = 1024  # of each kind
T = TypeVar("T")
_holders: list[list[object]] = []


def in_use(constant: T) -> T:
    """Returns `constant`, a kept one or an object that holds some. Call it where a launch takes it from its cache."""
    for holder in tuple(_holders):  # another thread may enter or leave meanwhile
        holder.append(constant)
    return constant


@contextmanager
def constants_held() -> Iterator[list[object]]:
    """Collects what `in_use` is called with while it is entered."""
    holder: list[object] = []
    _holders.append(holder)
    try:
        yield holder
    finally:
        _holders[:] = [other for other in _holders if other is not holder]


def constant(numbers: tuple[object, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A kept tensor of (nested) numbers, which must not be changed."""
    return in_use(_kept(numbers, dtype, device))


@lru_cache(maxsize=MOST_KEPT)
def _kept(numbers: tuple[object, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with lasting(device):
        return torch.tensor(numbers, dtype=dtype, device=device)


@contextmanager
def lasting(device: torch.device) -> Iterator[None]:
    """Create tensors that later calls reuse within this, whatever modes surround the first call.

    They are ordinary tensors: not those of inference mode, which autograd would not save, and not fake ones. Raises
    RuntimeError while a CUDA graph is captured: a copy from the host cannot be captured, and each replay would
    overwrite memory of the graph.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "CUDA graph: expected an attention of these shapes to have run before the capture, got its first call;"
            " run the function once, forward and backward, outside of the capture"
        )
    with _disable_current_modes(), torch.inference_mode(False):
        yield
