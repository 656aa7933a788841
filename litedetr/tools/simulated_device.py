"""A simulated GPU: its tensors are in the host's memory, but PyTorch takes them for a device's.

It computes on the CPU and rejects what a GPU rejects: tensors of host and device in one operator. A copy
between host and device is an operator of its own, as on a GPU; on a CPU nothing would be called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from litedetr.transfers import HOST

# Of a CPU's kind, for autocast, generators and the like, but unequal to torch.device("cpu"), which plain tensors have.
SIMULATED = torch.device("cpu", 0)
MAY_MIX = {"copy_", "copy", "index", "index_put", "index_put_", "_index_put_impl_"}  # of host and device


class SimulatedTensor(Tensor):
    """A tensor on SIMULATED. content: a plain one with its numbers.

    Its methods do what PyTorch's Python bindings do on a GPU; on a CPU these call no operator or another one.
    """

    content: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content: Tensor) -> SimulatedTensor:
        layout = {"strides": content.stride(), "storage_offset": content.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, content.shape, dtype=content.dtype, device=SIMULATED, **layout)

    def __init__(self, content: Tensor) -> None:
        self.content = content

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"SimulatedTensor({self.content})"

    def __setitem__(self, index: Any, value: Any) -> None:
        """A number is put into a tensor of the host first."""
        super().__setitem__(index, value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype))

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, requires_grad: bool = False) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(SIMULATED).requires_grad_(requires_grad)

    def tolist(self) -> Any:
        return self.to(HOST).tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert a tensor of the simulated device to numpy; use Tensor.cpu() first")
        return self.detach().to(HOST).numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()


class SimulatedDevice:
    """While it is entered, SIMULATED can be named as a device, and page-locked memory can be asked for."""

    def __enter__(self) -> SimulatedDevice:
        self._undo = ExitStack()
        # Module.to would give a parameter the insides of another tensor, but not its class.
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        self._undo.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        for name in ("tensor", "as_tensor", "asarray"):
            make = getattr(torch, name)
            self._undo.callback(setattr, torch, name, make)
            setattr(torch, name, partial(_by_the_host, make))
        self._undo.enter_context(_Operators())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._undo.__exit__(*exception)


def _by_the_host(make: Callable[..., Tensor], *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    """A GPU's tensor of given numbers is made on the host, then copied; on a CPU no operator sees the device."""
    if device == SIMULATED:
        return make(*args, **kwargs).to(SIMULATED)
    return make(*args, device=device, **kwargs)


class _Operators(TorchDispatchMode):
    """For operators without a simulated tensor among their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._locked: dict[int, torch.UntypedStorage] = {}  # held, so that their addresses stay theirs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.is_pinned.default:
            return not isinstance(args[0], SimulatedTensor) and args[0].untyped_storage()._cdata in self._locked
        if func is torch.ops.aten._pin_memory.default:
            locked = args[0].clone()
            self._locked[locked.untyped_storage()._cdata] = locked.untyped_storage()
            return locked
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator on the numbers themselves; its results are on the device if its arguments are, or if asked for."""
    given: list[Tensor] = []
    plain_args, plain_kwargs = _map(args, partial(_opened, given)), _map(kwargs, partial(_opened, given))
    on_device = [x for x in given if isinstance(x, SimulatedTensor)]
    _refuse_mixture(func, given, on_device)
    target = kwargs.get("device")
    if target is None:
        target = SIMULATED if on_device else HOST
    else:
        plain_kwargs["device"] = HOST
    same = {id(x.content if isinstance(x, SimulatedTensor) else x): x for x in given}  # in-place operators return these

    def placed(x: Tensor) -> Tensor:
        if id(x) in same:
            return same[id(x)]
        return SimulatedTensor(x) if target == SIMULATED else x

    return _map(func(*plain_args, **plain_kwargs), placed)


def _opened(given: list[Tensor], x: Tensor) -> Tensor:
    given.append(x)
    return x.content if isinstance(x, SimulatedTensor) else x


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with each of its tensors changed; torch's own tree_map takes as long as the operators."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_map(item, change) for item in value)
    if isinstance(value, dict):
        return {name: _map(item, change) for name, item in value.items()}
    return value


def _refuse_mixture(func: Any, given: list[Tensor], on_device: list[Tensor]) -> None:
    """A GPU takes single numbers of the host, and in few operators more."""
    if not on_device or len(given) == len(on_device) or func._schema.name.removeprefix("aten::") in MAY_MIX:
        return
    if any(not isinstance(x, SimulatedTensor) and x.ndim > 0 for x in given):
        raise RuntimeError(
            f"{func}: expected all tensors on one device, got some of the host and some of the simulated device"
        )
