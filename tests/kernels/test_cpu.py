"""The CPU path against the reference: output and every gradient by name."""

import subprocess
import sys

import pytest
import torch
from kernel_helpers import make_problem, run

from litedetr.kernels.cpu import bags, rows, scatter, table
from litedetr.kernels.cpu.products import products
from litedetr.kernels.functional import key_aware_attention

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}  # sums of a few dozen terms of size one in another order


CHUNKS = {"some queries of a head": 5, "a head or two": 20, "all images at once": 1 << 18}  # samples


@pytest.mark.parametrize("samples", CHUNKS.values(), ids=list(CHUNKS))
@pytest.mark.parametrize("sparse", [False, True], ids=["cells in order", "rows in order"])
@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
def test_output_and_gradients(problem, kind, sparse, samples, monkeypatch):
    monkeypatch.setattr(rows, "SAMPLES_PER_CHUNK", samples)  # the last chunk of an image may be shorter
    monkeypatch.setattr(rows, "SAMPLES_PER_ROW", 0)
    monkeypatch.setattr(scatter, "SAMPLES_PER_ROW", float("inf") if sparse else 0)
    monkeypatch.setattr(scatter, "SHORT_ROWS", 0 if sparse else 2**15)
    monkeypatch.setattr(bags, "BAGS_AT_ONCE", 20)
    monkeypatch.setattr(table, "IMAGE_ROWS", 2)
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


@pytest.mark.parametrize("order", [(4, 5, 0, 1, 2, 3), (0, 2, 1, 3, 4, 5), (5, 4, 3, 2, 1, 0)])
def test_offsets_may_lie_in_memory_in_any_order(order):
    """Elementwise results keep the layout of what they are made of; the backward pass sorts rows as one vector."""
    problem, permuted = make_problem(batch=1, points=2), make_problem(batch=1, points=2)
    offsets = permuted.tensors["offsets"].detach().permute(order).contiguous()
    back = [order.index(dim) for dim in range(6)]
    permuted.tensors["offsets"] = offsets.permute(back).requires_grad_()
    expected, found = (run("auto", "key_aware", x) for x in (problem, permuted))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_same_bits_on_every_run():
    """Many samples on few pixels, on several threads: a scatter whose order varied would differ in the last bits."""
    problem = make_problem(shapes=((3, 3),), queries=2000, channels=32, dtype=torch.float32)
    first, second = run("auto", "key_aware_shared", problem), run("auto", "key_aware_shared", problem)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("shapes", [((5, 4), (3, 2)), ((2, 3), (5, 7)), ((3, 4), (0, 0), (0, 3), (1, 1))], ids=str)
def test_each_pixel_is_the_corner_of_four_cells(shapes):
    """Also where the next level is wider, and steps further back."""
    levels = table.Levels(shapes)
    cells = levels.cells()
    assert (cells.diff(dim=1) >= 0).all()  # so that samples in order of their cells are in order of their rows
    for (height, width), start, pitch in zip(shapes, levels.starts, levels.pitches, strict=False):
        rows = torch.arange(height * pitch).view(height, pitch)[:, :width] + start + table.BORDER * (pitch + 1)
        for found, step in zip(cells, (0, 1, pitch, pitch + 1), strict=True):
            assert torch.equal(found[rows.long()], rows.int() - step)


@pytest.mark.parametrize("table_rows", [5, 7, 12, 100])
def test_products_with_rows(table_rows):
    """Of small tables too, whose rows each query head reads several times."""
    vectors, numbers = torch.randn(5, 2, 8), torch.randn(table_rows, 8)
    found = torch.randint(table_rows, (5, 3, 4), dtype=torch.int32)
    expected = torch.einsum("nvd,nkcd->nvkc", vectors, numbers[found.long()])
    torch.testing.assert_close(products(vectors, numbers, found), expected)


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
def test_products_with_a_row_that_does_not_exist(bad):
    rows = torch.tensor([[[0, bad, 0, 0]]], dtype=torch.int32)
    with pytest.raises(IndexError, match="^rows: expected 0 to 4, got"):
        products(torch.ones(1, 1, 8), torch.ones(5, 8), rows)


def test_more_samples_than_a_table_has_rows():
    problem = make_problem(shapes=((1, 1),), points=40, queries=2)
    expected, actual = run("reference", "key_aware_shared", problem), run("auto", "key_aware_shared", problem)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=TOLERANCE[torch.float64], rtol=0)


def test_the_first_call_of_a_process_gives_no_warning():
    """torch's own, that sparse tensors are in beta, would not come a second time."""
    code = """
import torch
from litedetr.kernels.functional import SamplingPoints, deformable_attention
points = SamplingPoints(torch.rand(1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 1, 2), ((2, 2),))
value = torch.ones(1, 4, 1, 8, requires_grad=True)
deformable_attention(value, torch.zeros(1, 1, 1, 1), points).sum().backward()
"""
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


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
