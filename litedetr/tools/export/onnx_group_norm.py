"""Group norm in ONNX, with sums that stay exact on large maps.

The exporter makes an InstanceNormalization of it. onnxruntime adds up its hundreds of thousands of numbers one after
the other, which costs four digits on a map of 214 x 320; so does one ReduceMean over them all. Means of means do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export's `custom_translation_table`."""
    return {torch.ops.aten.group_norm.default: group_norm}


def group_norm(x, num_groups: int, weight, bias, eps: float = 1e-5, cudnn_enabled: bool = True):
    """x (B, C, H, W), weight and bias (C,); symbolic values of onnxscript, as the exporter calls it."""
    from onnxscript import opset18 as op

    channels = int(weight.shape[0])
    centred = op.Sub(x, _mean(x, num_groups, channels))
    variance = _mean(op.Mul(centred, centred), num_groups, channels)
    normed = op.Div(centred, op.Sqrt(op.Add(variance, op.Constant(value_float=eps))))
    weight, bias = (op.Reshape(values, op.Constant(value_ints=[-1, 1, 1])) for values in (weight, bias))
    return op.Add(op.Mul(normed, weight), bias)


def _mean(x, num_groups: int, channels: int):
    """(B, C, 1, 1): of each channel's group; along rows, then columns, then channels."""
    from onnxscript import opset18 as op

    for axis in (3, 2):
        x = op.ReduceMean(x, op.Constant(value_ints=[axis]))
    x = op.Reshape(x, op.Constant(value_ints=[0, num_groups, channels // num_groups, 1]))
    x = op.ReduceMean(x, op.Constant(value_ints=[2]))
    x = op.Expand(x, op.Constant(value_ints=[1, 1, channels // num_groups, 1]))
    return op.Reshape(x, op.Constant(value_ints=[0, channels, 1, 1]))
