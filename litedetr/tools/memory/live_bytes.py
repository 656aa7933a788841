"""Bytes of the tensors that are alive: any device tells the same.

A storage counts once, from the operator that makes it until nothing holds it any more. So it counts what autograd
keeps, what activation checkpointing keeps (the arguments of layers, which are saved tensors of no operator), and what
lives between operators. It leaves out what an operator takes for itself while it runs (the workspace of a convolution),
what an allocator rounds up or cannot use again, and the device's context.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts the storages that operators make, but not those of `known` tensors.

    now: bytes alive. peak: the most that were alive at once.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = [x.untyped_storage() for x in known]  # held, so that their addresses stay theirs
        self._addresses = {storage._cdata for storage in self._known}
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, result)
        return result

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._addresses or address in self._alive:
            return

        def gone(_: weakref.ref) -> None:
            del self._alive[address]
            self.now -= size

        self._alive[address] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
