"""Copies between the host and a device: few of them, and only those to the host are waited for."""

from __future__ import annotations

import torch
from torch import Tensor

HOST = torch.device("cpu")


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x`, a tensor of the host, on `device`. It is copied from page-locked memory, so that the host does not wait."""
    return x if x.device == device else x.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Copies on the host of tensors of one device, without gradient. They are copied as one, so the host waits once.

    The copy is made into page-locked memory, which the device writes to directly.
    """
    if tensors[0].device == HOST:
        return [x.detach() for x in tensors]
    ordered = sorted(tensors, key=Tensor.element_size, reverse=True)  # so that each begins at a multiple of its size
    packed = torch.cat([x.detach().flatten().view(torch.uint8) for x in ordered]).to(HOST, non_blocking=True)
    if tensors[0].is_cuda:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    parts = packed.split([x.nbytes for x in ordered])
    found = {id(x): part.view(x.dtype).view(x.shape) for x, part in zip(ordered, parts, strict=True)}
    return [found[id(x)] for x in tensors]
