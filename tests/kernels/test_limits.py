"""Counts that 32 bits, a grid or a tile do not hold are refused by number, before anything is copied or computed."""

import pytest
import torch

from litedetr.kernels import cpu
from litedetr.kernels.cpu import bags
from litedetr.kernels.functional import SamplingPoints, key_aware_attention
from litedetr.kernels.fused.launch import Launch
from litedetr.kernels.fused.limits import check_limits
from litedetr.kernels.fused.sizes import Sizes
from litedetr.kernels.inputs import Inputs
from litedetr.kernels.points import MOST_SIDE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def large(batch=1, queries=1, heads=1, channels=1, points=1, shapes=((1, 1),), device=DEVICE) -> Inputs:
    """Of one number each, with stride 0."""

    def tensor(*size):
        return torch.zeros(1, device=device).expand(size)

    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    of_a_query = batch, queries, heads
    points = SamplingPoints(tensor(batch, queries, levels, 2), tensor(*of_a_query, levels, points, 2), shapes)
    return Inputs(tensor(*of_a_query, channels), None, tensor(batch, tokens, heads, channels), None, points)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 2**16}, "value: expected at most 65535 images"),
        ({"heads": 2**16}, "value: expected at most 65535 heads"),
        ({"channels": 2**20 + 1}, "value: expected at most 1048576 channels"),
        ({"shapes": ((2**15, 2**16),)}, "shapes: expected at most 2147483647 cells .* got 2147581953"),
        ({"shapes": ((2**15, 2**15), (2**15, 2**15))}, "shapes: expected at most 2147483647 cells"),
        ({"queries": 2**31 - 1}, "offsets: expected at most .* queries"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_more_than_32_bits_count_is_refused_by_the_fused_kernels(sizes, message):
    """Before anything is copied: each of the tensors would fill the memory."""
    inputs = large(**sizes)
    with pytest.raises(ValueError, match=f"^{message}"):
        key_aware_attention(inputs.query, inputs.value, inputs.points, backend="triton")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"shapes": ((2**15, 2**16),)}, "value: expected at most 2147483647 rows .* got 2147"),
        ({"shapes": ((2**15, 2**15),), "heads": 2}, "value: expected at most 2147483647 rows"),
        ({"points": 2**29}, "offsets: expected at most 536870911 samples"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_more_than_32_bits_count_is_refused_by_the_cpu_path(sizes, message):
    """Before anything is copied."""
    inputs = large(**sizes, device="cpu")
    with pytest.raises(ValueError, match=f"^{message}"):
        cpu.attention.eager(inputs, True)


def test_sides_end_where_single_precision_does():
    inputs = large(shapes=((1, MOST_SIDE + 1),))
    with pytest.raises(ValueError, match=f"^shapes: expected pairs .* to {MOST_SIDE}, got"):
        inputs.points.check(inputs.value)
    large(shapes=((1, MOST_SIDE),)).points.check(large(shapes=((1, MOST_SIDE),)).value)


def test_limits_hold_on_meta_as_well():
    """Where nothing is computed."""
    inputs = large(shapes=((2**15, 2**16),)).map(lambda x: x.to("meta"))
    with pytest.raises(ValueError, match="^shapes: expected at most"):
        check_limits(Sizes.of(inputs), Launch(16, 4))


@pytest.mark.parametrize("bad", [-1, 10**6, 2**31 - 1])
def test_torch_checks_the_rows_that_bags_read(bad):
    """What the CPU path leaves to torch: a row that does not exist raises."""
    rows = torch.tensor([[[0, bad, 0, 0]]], dtype=torch.int32)
    for dtype in (torch.float32, torch.float64):
        numbers = torch.ones(5, 3, dtype=dtype)
        with pytest.raises(RuntimeError, match="valid range|Expected idx"):
            bags.sums(numbers, rows, torch.ones(1, 1, 4, dtype=dtype))
