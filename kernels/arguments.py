"""Checks the arguments of a call; of plain calls each combination of shapes, dtypes and devices only once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from litedetr.kernels.inputs import Inputs, autocast_dtype
from litedetr.kernels.points import DTYPES, check_dtype, check_tensor

Scorer = Literal["query", "logits"]  # which of the inputs scores the samples

MOST_REMEMBERED = 1024
_fitting: set[tuple] = set()  # signatures of calls that were checked


def ready(inputs: Inputs, scorer: Scorer, plain: bool) -> Inputs:
    """The inputs in the precision that autocast asks for.

    Raises ValueError if shapes, layouts, dtypes or devices do not fit, TypeError for an argument that is not a tensor.
    """
    if not plain:
        return _checked(inputs, scorer)
    signature = _signature(inputs)
    if signature in _fitting:
        return _lowered(inputs)
    inputs = _checked(inputs, scorer)
    if len(_fitting) >= MOST_REMEMBERED:
        _fitting.clear()
    _fitting.add(signature)
    return inputs


def _signature(inputs: Inputs) -> tuple:
    """All that checks look at, of a plain call, by value."""
    points = inputs.points
    tensors = *inputs.tensors, points.valid_sizes
    kinds = [None if x is None else (x.shape, x.dtype, x.device) for x in tensors]
    return autocast_dtype(inputs.value), points.shapes, points.query_shapes, points.sampling, *kinds


def _checked(inputs: Inputs, scorer: Scorer) -> Inputs:
    for name in (scorer, "value", "key"):
        tensor = getattr(inputs, name)
        if tensor is not None or name != "key":
            check_dtype(name, tensor, DTYPES)
    inputs = _lowered(inputs)
    value, points = inputs.value, inputs.points
    points.check(value)
    *per_head, levels, num_points, _ = points.offsets.shape
    if scorer == "logits":
        _check_like("logits", inputs.logits, (*per_head, levels * num_points), value)
    else:
        _check_like("query", inputs.query, (*per_head, value.shape[-1]), value)
    if inputs.key is not None:
        _check_like("key", inputs.key, tuple(value.shape), value)
    return inputs


def _lowered(inputs: Inputs) -> Inputs:
    """Under autocast query, key, value and logits in its dtype, but for double precision; the points as they are."""
    dtype = autocast_dtype(inputs.value)
    if dtype is None:
        return inputs
    tensors = inputs.query, inputs.key, inputs.value, inputs.logits
    return Inputs(*(x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in tensors), inputs.points)


def _check_like(name: str, tensor: Tensor, expected: tuple[int, ...], value: Tensor) -> None:
    """Raise ValueError unless `tensor` has the expected shape, and dtype and device of `value`."""
    check_tensor(name, tensor, expected, value)
    if tensor.dtype != value.dtype:
        raise ValueError(f"{name}: expected {value.dtype} like value, got {tensor.dtype}")
