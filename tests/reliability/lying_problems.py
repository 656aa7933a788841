"""Attention problems whose arguments lie, drawn by Hypothesis, and what must hold of their results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from kernel_helpers import Problem, make_problem, run
from torch import Tensor

KINDS = ("deformable", "key_aware_shared", "key_aware")
INPUTS_OF_A_HEAD = ("query", "logits", "offsets")  # (B, Q, M, ...)
NONE = float("nan")
INFINITE = float("inf")
# No reference and offset of these add up to a place that is near again, where rounding would decide what is read.
WILD = {
    "reference": (NONE, INFINITE, -INFINITE, -1.0, 0.0, 1e3, -1e9, 1e18, 1e30),
    "offsets": (NONE, INFINITE, -INFINITE, 0.0, 777.0, -7.7e9, 7.7e18, -7.7e30),
    "logits": (NONE, INFINITE, -INFINITE, 1e4, -1e4, -3.4e38),
    "query": (NONE, INFINITE, -INFINITE),
    "key": (NONE, INFINITE, -INFINITE),
    "value": (NONE, INFINITE, -INFINITE),
}
WILD_SIZES = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 1000, 2**31 - 1, 2**31, 2**32 + 1, 2**62)
# Sums of a few dozen terms of size one in another order; in single precision, of rounded locations too.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3}


@dataclass(frozen=True)
class Lie:
    """A call with all that it may be given. `kind` as in kernel_helpers."""

    kind: str
    problem: Problem
    deterministic: bool


@st.composite
def lies(draw, most: int) -> Lie:
    """most: of levels' sides, queries and channels. Nothing at all, which hides all else, is drawn rarely."""
    side, count = st.sampled_from([*range(most, -1, -1)]), st.sampled_from([*range(1, most + 1)] * 2 + [0])
    shapes = draw(st.lists(st.tuples(side, side), min_size=1, max_size=3))
    problem = make_problem(
        tuple(shapes),
        batch=draw(st.sampled_from([2, 1, 2, 1, 2, 0])),
        queries=draw(count),
        heads=draw(st.integers(1, 2)),
        channels=draw(st.integers(1, most)),
        points=draw(st.integers(1, 3)),
        boxes=draw(st.booleans()),
        dtype=draw(st.sampled_from(list(TOLERANCE))),
    )
    if draw(st.booleans()):
        problem.valid_sizes = draw(valid_sizes(len(problem.tensors["offsets"]), len(shapes)))
    kind = draw(st.sampled_from(KINDS))
    for name in draw(st.lists(st.sampled_from(["offsets", "reference", *WILD]), min_size=1, max_size=3)):
        spoil(draw, problem.tensors, name)
    for name, tensor in problem.tensors.items():
        laid_out = draw(layouts(tensor.detach()))
        problem.tensors[name] = laid_out.requires_grad_(name == "value" or draw(st.booleans()))
    return Lie(kind, problem, draw(st.booleans()))


@st.composite
def valid_sizes(draw, batch: int, levels: int) -> Tensor:
    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    limits = torch.iinfo(dtype)
    number = st.sampled_from([size for size in WILD_SIZES if limits.min <= size <= limits.max])
    numbers = [draw(number) for _ in range(batch * levels * 2)]
    return torch.tensor(numbers, dtype=dtype).view(batch, levels, 2)


def spoil(draw, tensors: dict[str, Tensor], name: str) -> None:
    """Put one of the wild numbers into a tensor: in one place, or everywhere."""
    flat = tensors[name].detach().view(-1)
    if len(flat):
        wild = draw(st.sampled_from(WILD[name]))
        place = draw(st.integers(-1, len(flat) - 1))
        flat[place if place >= 0 else slice(None)] = wild


@st.composite
def layouts(draw, tensor: Tensor) -> Tensor:
    """The same numbers, or with stride 0 the first of them, in memory that is not contiguous."""
    way = draw(st.sampled_from(["contiguous", "permuted", "part", "steps", "expanded"]))
    if way == "permuted":
        order = draw(st.permutations(range(tensor.ndim)))
        return tensor.permute(order).contiguous().permute([order.index(i) for i in range(tensor.ndim)])
    if way == "part":
        return torch.cat([tensor[..., :1], tensor, tensor[..., :1]], dim=-1)[..., 1:-1]
    if way == "steps":
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if way == "expanded" and tensor.numel():
        dim = draw(st.integers(0, tensor.ndim - 1))
        return tensor.narrow(dim, 0, 1).expand(tensor.shape)
    return tensor


def results(backend: str, lie: Lie) -> dict[str, Tensor]:
    """Output and gradients by name, on the CPU."""
    found = run(backend, lie.kind, lie.problem, deterministic=lie.deterministic)
    return {name: tensor.cpu() for name, tensor in found.items()}


def exact_results(lie: Lie) -> dict[str, Tensor]:
    """From the reference in double precision."""
    return results("reference", Lie(lie.kind, lie.problem.cast(torch.float64), lie.deterministic))


def assert_as_expected(actual: dict[str, Tensor], expected: dict[str, Tensor], lie: Lie) -> None:
    """Equal, and no number where there is none: the same query heads are spoiled, and no token but theirs.

    Of a spoiled head's own inputs the gradients may be anything.
    """
    assert set(actual) == set(expected)
    heads = lie.problem.tensors["offsets"].shape[:3]
    sound = expected["output"].view(*heads, lie.problem.tensors["value"].shape[3]).isfinite().all(-1)
    for name, tensor in expected.items():
        found = actual[name].double()
        if name in INPUTS_OF_A_HEAD:
            found, tensor = found[sound], tensor[sound]
        elif name == "reference":
            found, tensor = found[sound.all(-1)], tensor[sound.all(-1)]
        is_number = tensor.isfinite()
        assert torch.equal(found.isfinite(), is_number), name
        size = max(1.0, tensor[is_number].abs().amax().item()) if is_number.any() else 1.0
        error = (found - tensor)[is_number].abs().amax().item() if is_number.any() else 0.0
        assert error <= TOLERANCE[lie.problem.tensors["value"].dtype] * size, (name, error, size)
