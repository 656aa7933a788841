"""The CPU path against the reference: output and every gradient by name."""

import pytest
import torch
from kernel_helpers import make_problem, run

from litedetr.kernels.cpu import bags, rows, table
from litedetr.kernels.functional import key_aware_attention

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}  # sums of a few dozen terms of size one in another order


@pytest.mark.parametrize("samples", [20, 1 << 18], ids=["parts of an image", "all images at once"])
@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
def test_output_and_gradients(problem, kind, samples, monkeypatch):
    monkeypatch.setattr(rows, "SAMPLES_PER_CHUNK", samples)  # with 20 the last chunk of an image is shorter
    monkeypatch.setattr(rows, "SAMPLES_PER_ROW", 0)
    monkeypatch.setattr(bags, "BAGS_AT_ONCE", 20)
    expected, actual = run("reference", kind, problem), run("auto", kind, problem)
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, atol=TOLERANCE[torch.float64], rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
def test_single_precision(boxes):
    single = make_problem(dtype=torch.float32, boxes=boxes, padded=True)
    for name, tensor in run("reference", "key_aware", single).items():
        torch.testing.assert_close(
            run("auto", "key_aware", single)[name], tensor, atol=TOLERANCE[torch.float32], rtol=TOLERANCE[torch.float32]
        )


def test_same_bits_on_every_run():
    """Many samples on few pixels, on several threads: a scatter whose order varied would differ in the last bits."""
    problem = make_problem(shapes=((3, 3),), queries=2000, channels=32, dtype=torch.float32)
    first, second = run("auto", "key_aware_shared", problem), run("auto", "key_aware_shared", problem)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), 1e30])
def test_locations_far_outside_read_zero(bad):
    problem = make_problem()
    with torch.no_grad():
        problem.tensors["offsets"].fill_(bad)
    out = run("auto", "key_aware_shared", problem)["output"]
    torch.testing.assert_close(out, torch.zeros_like(out))


def test_a_location_that_is_no_number_gives_no_number():
    """And reads no memory outside the table, which would raise."""
    problem = make_problem(padded=True)
    with torch.no_grad():
        problem.tensors["offsets"].fill_(float("nan"))
    assert run("auto", "key_aware_shared", problem)["output"].isnan().all()


def test_half_precision_is_computed_in_single():
    problem = make_problem(dtype=torch.float32)
    t = problem.tensors
    half = key_aware_attention(t["query"].bfloat16(), t["value"].bfloat16(), problem.points)
    assert half.dtype == torch.bfloat16
    rounded = key_aware_attention(t["query"].bfloat16().float(), t["value"].bfloat16().float(), problem.points)
    torch.testing.assert_close(half, rounded.bfloat16())


def test_more_rows_than_32_bits_count_are_refused(monkeypatch):
    monkeypatch.setattr(table, "MOST_ROWS", 10)
    with pytest.raises(ValueError, match="^value: expected at most 10 rows"):
        run("auto", "key_aware_shared", make_problem())
