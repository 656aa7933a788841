"""Other ways to compute the same attentions, to compare with: the published formulation and other libraries.

Each takes `Inputs` and returns (B, Q, M * D); autograd differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from litedetr.kernels import reference
from litedetr.kernels.constants import constant
from litedetr.kernels.inputs import Inputs
from litedetr.kernels.points import level_starts

Attend = Callable[[Inputs], Tensor]
MOST_COMPILED = 256  # programs: one for each kind and shape of call, with and without gradient


def unfused(inputs: Inputs) -> Tensor:
    """As the published Lite DETR does: every sampled key and value is written to memory by grid_sample."""
    locations = _normalised(inputs)
    value = _grid_sample(inputs.value, locations, inputs)
    if inputs.logits is not None:
        weights = inputs.logits.transpose(1, 2).flatten(0, 2).softmax(-1).unsqueeze(-2)
    else:
        # the published code samples keys and values each, also where they are the same
        key = _grid_sample(inputs.value if inputs.key is None else inputs.key, locations, inputs)
        query = inputs.query.transpose(1, 2).flatten(0, 2).unsqueeze(-2)  # (B * M * Q, 1, D)
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
    batch, queries, heads = inputs.points.offsets.shape[:3]
    return (weights @ value).view(batch, heads, queries, -1).transpose(1, 2).flatten(2)


def _normalised(inputs: Inputs) -> Tensor:
    """(B, Q, M, L, P, 2) in [0, 1]; with nearest sampling centres of pixels."""
    location = inputs.points.pixel_locations()
    sides = tuple((w, h) for h, w in inputs.points.shapes)
    size = constant(sides, location.dtype, location.device).view(-1, 1, 2)
    return (location + 0.5) / size


def _grid_sample(table: Tensor, locations: Tensor, inputs: Inputs) -> Tensor:
    """(B * M * Q, L * P, D) samples of a table (B, S, M, D); in single precision at least, as autocast does it."""
    channels = table.shape[-1]
    exact = torch.promote_types(table.dtype, torch.float32)
    samples = []
    for level, (height, width) in enumerate(inputs.points.shapes):
        start = level_starts(inputs.points.shapes)[level]
        image = table[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        grid = (locations[:, :, :, level] * 2 - 1).transpose(1, 2).flatten(0, 1)  # (B * M, Q, P, 2)
        # nearest: grid_sample rounds half to even, but the centre of a pixel to the pixel
        sampled = F.grid_sample(image.to(exact), grid.to(exact), inputs.points.sampling, "zeros", align_corners=False)
        samples.append(sampled.to(table.dtype))
    return torch.cat(samples, dim=-1).permute(0, 2, 3, 1).flatten(0, 1)  # from (B * M, D, Q, L * P)


def deformops(inputs: Inputs, **options: object) -> Tensor:
    """The deformops library (MSDA only). It takes normalised locations.

    Without options it adds the gradients of half-precision values in their precision where the GPU has such atomics
    (sm_90 and later).
    """
    from deformops.registry import msda

    points, value = inputs.points, inputs.value
    shapes = constant(tuple(map(tuple, points.shapes)), torch.int64, value.device)
    starts = constant(tuple(level_starts(points.shapes)), torch.int64, value.device)
    weights = inputs.logits.unflatten(-1, points.offsets.shape[3:5])
    return msda(value, shapes, starts, _normalised(inputs).to(value.dtype), weights, method="softmax", **options)


def deformops_fp32(inputs: Inputs) -> Tensor:
    """The same, with gradients added in fp32, as our kernels add them."""
    from deformops.registry import Backend

    return deformops(inputs, backend=Backend.TRITON, fp32acc=True)


@lru_cache
def _compiled_reference() -> Attend:
    """An error, where PyTorch would go on without compiling: its own limit is eight programs."""
    from torch._dynamo import config  # not above: it takes a second

    config.cache_size_limit = MOST_COMPILED  # in PyTorch 2.13 an alias of recompile_limit, which 2.6 does not have
    return torch.compile(reference.attend, dynamic=False, fullgraph=True)


def compiled(inputs: Inputs) -> Tensor:
    """The reference through torch.compile."""
    return _compiled_reference()(inputs)


def obstacle(name: str, inputs: Inputs) -> str | None:
    """Why a peer cannot take a call, or None."""
    if name not in ("deformops", "deformops_fp32"):
        return None
    if find_spec("deformops") is None:
        return "not installed"
    if inputs.logits is None:
        return "has no key-aware attention"
    if inputs.points.sampling != "bilinear":
        return "has no nearest sampling"
    if name == "deformops_fp32" and inputs.value.element_size() > 2:
        return "the same as deformops in single precision"
    return None


PEERS: dict[str, Attend] = {
    "reference": reference.attend,
    "compiled": compiled,
    "unfused": unfused,
    "deformops": deformops,
    "deformops_fp32": deformops_fp32,
}
