"""The guard of the interpreter's memory finds kernels that are broken on purpose."""

import os

import pytest
import torch
import triton
import triton.language as tl
from kernel_helpers import attend, make_problem, run
from memory_guard import guarded, obstacle

from litedetr.kernels.fused import forward
from litedetr.kernels.fused.sampling import cell_of

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are compiled, not interpreted"),
    pytest.mark.skipif(obstacle() is not None, reason=str(obstacle())),
]


@triton.jit
def copy(from_ptr, to_ptr, shift, length, BLOCK: tl.constexpr):
    """Elements [shift, shift + length)."""
    place = tl.arange(0, BLOCK)
    tl.store(to_ptr + place, tl.load(from_ptr + place + shift, place < length), place < length)


@triton.jit
def add_one(to_ptr, place):
    tl.atomic_add(to_ptr + place, 1.0)


@triton.jit
def weights_without_bounds(position, size, valid, LEAST: tl.constexpr):
    """As kernels/fused/sampling.py has them, but for the comparisons."""
    pixel, fraction = cell_of(position, size)
    return pixel, (1.0 - fraction, fraction + LEAST)


@triton.jit
def whole_tile(exists, channel, CHANNELS: tl.constexpr):
    return exists | True


def test_what_is_inside_or_masked_is_left_alone():
    source, target = torch.arange(5.0), torch.zeros(3)
    with guarded() as guard:
        copy[(1,)](source, target, 2, 3, BLOCK=8)
    assert target.tolist() == [2, 3, 4]
    assert guard.accesses == 6


@pytest.mark.parametrize(("shift", "length"), [(3, 3), (-1, 3), (0, 4), (2**40, 1)], ids=str)
def test_reads_and_writes_outside_are_found(shift, length):
    """Of a part of a tensor too, whose memory goes on."""
    source, target = torch.arange(7.0)[1:6], torch.zeros(9)[2:5]
    with guarded(), pytest.raises(Exception, match="OutOfBounds"):
        copy[(1,)](source, target, shift, length, BLOCK=8)
    assert not target.any()


def test_another_tensor_of_the_launch_is_outside_too():
    both = torch.zeros(10)
    source, target = both[:5], both[5:]
    with guarded(), pytest.raises(Exception, match="OutOfBounds"):
        copy[(1,)](source, target, 5, 1, BLOCK=2)


@pytest.mark.parametrize("place", [-1, 3])
def test_atomics_outside_are_found(place):
    with guarded(), pytest.raises(Exception, match="OutOfBounds"):
        add_one[(1,)](torch.zeros(3), place)


@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
def test_attention_without_a_look_at_the_border_is_found(kind, monkeypatch):
    monkeypatch.setattr(forward, "axis_weights", weights_without_bounds)
    with guarded(), pytest.raises(Exception, match="OutOfBounds"):
        run("triton", kind, make_problem())


@pytest.mark.parametrize(
    ("deterministic", "part", "broken"),
    [(False, "backward.axis_weights", weights_without_bounds), (True, "segments.tile_mask", whole_tile)],
    ids=["atomic", "deterministic"],
)
def test_a_backward_pass_that_is_broken_is_found(deterministic, part, broken, monkeypatch):
    """The forward pass is right."""
    monkeypatch.setattr(f"litedetr.kernels.fused.{part}", broken)
    problem = make_problem()
    with guarded() as guard:
        out = attend("key_aware_shared", problem, "triton", deterministic=deterministic)
        assert guard.accesses > 0
        with pytest.raises(Exception, match="OutOfBounds"):
            out.sum().backward()
