"""Watches the memory of interpreted kernels: each access must lie within the tensor that its pointer came from.

The interpreter computes with plain addresses, of which 48 bits are in use. Within `guarded`, the bits above hold the
number of the tensor, which pointer arithmetic leaves alone; a load, store or atomic looks the tensor up and is checked
against its extent before the memory is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

interpreter = pytest.importorskip("triton.runtime.interpreter")

ADDRESS_BITS = np.uint64(48)
ADDRESS = np.uint64((1 << 48) - 1)
HOOKS = ("create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas")
PARTS = ("InterpreterBuilder", "GridExecutor", "TensorHandle", "_implicit_cvt")


class OutOfBounds(AssertionError):
    """A kernel touched memory outside of the tensor that it had a pointer to."""


def obstacle() -> str | None:
    """Why interpreted kernels cannot be watched here, if they cannot."""
    builder = getattr(interpreter, "InterpreterBuilder", None)
    missing = [name for name in PARTS if not hasattr(interpreter, name)]
    missing += [name for name in HOOKS if not hasattr(builder, name)]
    return f"this version of Triton interprets in another way: it has no {', '.join(missing)}" if missing else None


@dataclass
class MemoryGuard:
    """accesses: elements that were touched and checked, of all launches."""

    extents: list[tuple[int, int]] = field(default_factory=list)  # of the tensors of the launch, in bytes
    accesses: int = 0

    def begin(self) -> None:
        """Forget the tensors of the launch before; 0 is the number of no tensor."""
        self.extents = [(1, 0)]

    def tagged(self, tensor: Tensor, address: np.ndarray) -> np.ndarray:
        """The address of a tensor of this launch with its number."""
        self.extents.append(extent(tensor))
        return address + (np.uint64(len(self.extents) - 1) << ADDRESS_BITS)

    def addresses(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
        """Of elements of `size` bytes. Raises OutOfBounds where one that is not masked lies outside its tensor."""
        touched = np.broadcast_to(pointers, mask.shape)[mask]
        number, address = touched >> ADDRESS_BITS, touched & ADDRESS
        starts, ends = np.array(self.extents, dtype=np.uint64).T
        outside = number >= len(starts)
        number = np.where(outside, 0, number).astype(np.int64)
        outside |= (address < starts[number]) | (address + np.uint64(size) > ends[number])
        if outside.any():
            raise OutOfBounds(f"{outside.sum()} of {outside.size} elements lie outside of their tensors")
        self.accesses += touched.size
        return pointers & ADDRESS


def extent(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte and of the one behind its last."""
    start, size = tensor.data_ptr(), tensor.element_size()
    if tensor.numel() == 0:
        return start + 1, start
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * size


@contextmanager
def guarded() -> Iterator[MemoryGuard]:
    """Watch all kernels that are interpreted within."""
    guard, builder = MemoryGuard(), interpreter.InterpreterBuilder
    load, store, add, swap = (getattr(builder, name) for name in HOOKS)
    begin, convert = interpreter.GridExecutor.__call__, interpreter._implicit_cvt

    def checked(pointers, mask):
        size = pointers.get_element_ty().primitive_bitwidth // 8
        masked = np.ones(pointers.data.shape, bool) if mask is None else mask.data
        return interpreter.TensorHandle(guard.addresses(pointers.data, masked, size), pointers.dtype)

    def launch(self, *arguments, **constants):
        guard.begin()
        return begin(self, *arguments, **constants)

    def tagged(argument):
        converted = convert(argument)
        if isinstance(argument, torch.Tensor):
            converted.handle.data = guard.tagged(argument, converted.handle.data)
        return converted

    hooks = {
        "create_masked_load": lambda self, p, mask, *rest: load(self, checked(p, mask), mask, *rest),
        "create_masked_store": lambda self, p, value, mask, *rest: store(self, checked(p, mask), value, mask, *rest),
        "create_atomic_rmw": lambda self, op, p, v, mask, *rest: add(self, op, checked(p, mask), v, mask, *rest),
        "create_atomic_cas": lambda self, p, *rest: swap(self, checked(p, None), *rest),
    }
    with ExitStack() as stack:
        for name, hook in hooks.items():
            stack.enter_context(patch.object(builder, name, hook))
        stack.enter_context(patch.object(interpreter.GridExecutor, "__call__", launch))
        stack.enter_context(patch.object(interpreter, "_implicit_cvt", tagged))
        yield guard
