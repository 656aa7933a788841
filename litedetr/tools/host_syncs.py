"""Counts what the host waits for in a call: operators that return only when the device has done all its work.

An operator waits if the host needs a result (`item`, `nonzero`, a boolean index), and so does a copy between host and
device; only a non-blocking copy from page-locked memory to the device does not. Operators are seen from PyTorch's
dispatcher, so waits within a custom operator or a collective, and explicit synchronisations, are not counted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litedetr.settings import require
from litedetr.transfers import HOST

PACKAGE = Path(__file__).parents[1]
NOT_A_PLACE = {str(PACKAGE / name) for name in ("transfers.py", "tools/host_syncs.py", "tools/simulated_device.py")}
RESULT_ON_THE_HOST = {  # a number, or a size that depends on the numbers
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "unique_dim_consecutive",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
MASKS = (torch.bool, torch.uint8)


@dataclass(frozen=True)
class HostSync:
    """An operator that waits for the device."""

    operator: str  # such as `aten.nonzero.default`
    where: str  # the line of ours that called it, `litedetr/losses/matcher.py:59`, or `elsewhere`
    count: int


def count_host_syncs(call: Callable[[], object], device: torch.device) -> list[HostSync]:
    """What `call` waits for on `device`, most frequent first. Runs it once.

    device: a GPU; on a machine without one, SIMULATED within the SimulatedDevice of litedetr.tools.simulated_device.
    Raises ConfigError for the host, which waits for no device.
    """
    with HostSyncCounter(device) as counter:
        call()
    return counter.syncs


class HostSyncCounter(TorchDispatchMode):
    """While it is entered, counts what waits for `device`, and the copies to it that do not."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = torch.empty(0, device=device).device  # with its number, as tensors name it
        require(self.device != HOST, "device", "a GPU, or SIMULATED within SimulatedDevice", device)
        self._syncs: Counter[tuple[str, str]] = Counter()
        self._copies: Counter[tuple[str, str]] = Counter()

    @property
    def syncs(self) -> list[HostSync]:
        return _listed(self._syncs)

    @property
    def copies(self) -> list[HostSync]:
        """The copies to the device that nothing waits for."""
        return _listed(self._copies)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = OperatorCall(func, args, kwargs or {}, self.device)
        if call.waits():
            self._syncs[str(func), _where()] += 1
        elif call.copied_from() is not None:
            self._copies[str(func), _where()] += 1
        return func(*args, **call.kwargs)


def _listed(found: Counter[tuple[str, str]]) -> list[HostSync]:
    return [HostSync(*key, count) for key, count in found.most_common()]


def _where() -> str:
    """The innermost line of ours on the stack."""
    for frame, line in traceback.walk_stack(sys._getframe(2)):
        name = frame.f_code.co_filename
        if name.startswith(f"{PACKAGE}{os.sep}") and name not in NOT_A_PLACE:
            return f"{Path(name).relative_to(PACKAGE.parent).as_posix()}:{line}"
    return "elsewhere"


@dataclass(frozen=True)
class OperatorCall:
    """A call of an operator, and the device that may be waited for."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: torch.device

    @property
    def name(self) -> str:
        return self.func._schema.name.removeprefix("aten::")

    def waits(self) -> bool:
        source = self.copied_from()
        if source is not None:
            return self._is_here(source) or not (self._non_blocking() and source.is_pinned())
        if not any(map(self._is_here, tree_leaves((self.args, self.kwargs)))):
            return False
        if self.name in INDEXING:
            return self._index_waits()
        if self.name == "repeat_interleave":
            return "Tensor" in self.func._overloadname and self.kwargs.get("output_size") is None
        return self.name in RESULT_ON_THE_HOST

    def copied_from(self) -> Tensor | None:
        """The source of a copy between the host and the device; None if it is no such copy."""
        if self.name == "_to_copy":
            source, target = self.args[0], self.kwargs.get("device")
            target = source.device if target is None else target
        elif self.name in ("copy_", "copy"):
            source, target = self.args[1], self.args[0].device
        else:
            return None
        return source if source.device != target and self.device in (source.device, target) else None

    def _non_blocking(self) -> bool:
        given = self.args[2:3] if self.name in ("copy_", "copy") else ()
        return any(given) or bool(self.kwargs.get("non_blocking"))

    def _index_waits(self) -> bool:
        """A mask becomes indices, as many as are set; what lies on the host is copied."""
        _, given, *rest = self.args
        indices = [index for index in given if index is not None]
        is_masked = any(index.dtype in MASKS for index in indices)
        values = rest[0] if rest else None
        if values is not None and not self._is_here(values):
            # Assigning one number to a mask is a `masked_fill`, which takes it from the host as it is.
            accumulate = any(rest[1:2]) or bool(self.kwargs.get("accumulate"))
            return not (is_masked and len(indices) == 1 and values.numel() == 1 and not accumulate)
        return is_masked or not all(map(self._is_here, indices))

    def _is_here(self, x: object) -> bool:
        return isinstance(x, Tensor) and x.device == self.device
