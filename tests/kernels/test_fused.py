"""The Triton kernels, on the GPU that is here or else interpreted, against the reference in double precision."""

import os
import subprocess
import sys

import pytest
import torch
from kernel_helpers import CASES, NEAREST, RMS, attend, make_problem, run

from litedetr.kernels.fused import launch
from litedetr.kernels.fused.tables import tile_order

KINDS = ["deformable", "key_aware_shared", "key_aware"]
EXACT = 1e-11  # sums of a few dozen terms of size one in another order
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


pytestmark = pytest.mark.usefixtures("few_programs")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty is filled with NaN, so that what a kernel should write and does not is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


SEGMENTS = launch.Segments(32, 1)


def launch_always(monkeypatch, chosen, segments=SEGMENTS):
    monkeypatch.setattr(launch, "rule", lambda shape: segments if shape.pass_name == "segments" else chosen)


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name].cpu(), tensor, atol=EXACT, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES | NEAREST)
def test_output_and_gradients(case, kind, deterministic):
    sizes = (CASES | NEAREST)[case]
    expected = run("reference", kind, make_problem(**sizes))
    actual = run("triton", kind, make_problem(**sizes).to(DEVICE), deterministic=deterministic)
    assert_equal(actual, expected)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", RMS, ids=str)
def test_precision(kind, dtype, deterministic):
    """Half-precision inputs, points in single precision: within one rounding of the result on the rounded inputs."""
    case = {"queries": 20, "channels": 32, "points": 4, "padded": True}
    low = make_problem(**case, dtype=torch.float32).cast(dtype)
    expected = run("reference", kind, low.cast(torch.float64))
    for name, tensor in run("triton", kind, low.to(DEVICE), deterministic=deterministic).items():
        assert tensor.dtype == (dtype if name != "reference" else torch.float32), name
        error = tensor.cpu().double() - expected[name]
        assert error.square().mean().sqrt() < RMS[dtype] * expected[name].square().mean().sqrt(), name


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_points_in_double_precision(kind, dtype, deterministic):
    """Beside values that are not; of so few numbers the error scatters."""
    exact = make_problem(batch=1, heads=1, boxes=True)
    mixed = exact.cast(dtype)
    for name in ("offsets", "reference"):
        mixed.tensors[name] = exact.tensors[name].detach().requires_grad_()
    expected = run("reference", kind, mixed.cast(torch.float64))
    for name, tensor in run("triton", kind, mixed.to(DEVICE), deterministic=deterministic).items():
        assert tensor.dtype == (torch.float64 if name in ("offsets", "reference") else dtype)
        error = tensor.cpu().double() - expected[name]
        assert error.square().mean().sqrt() < 2 * RMS[dtype] * expected[name].square().mean().sqrt(), name


@pytest.mark.parametrize("kind", ["deformable", "key_aware"])
def test_weights_of_large_scores_are_bounded(kind):
    """Single precision does not hold such scores, but no weight exceeds 1."""
    problem = make_problem(shapes=((3, 4),), batch=1, heads=1, dtype=torch.float32)
    with torch.no_grad():
        problem.tensors["logits" if kind == "deformable" else "query"].mul_(1e8)
        problem.tensors["reference"].clamp_(0.3, 0.7)
        problem.tensors["offsets"].mul_(0.1)
    gradient = run("triton", kind, problem.to(DEVICE))["value"]
    assert 0 < gradient.abs().max() <= 3 * 3  # at most the gradient of all outputs, by all samples


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_several_blocks_and_a_part_of_one(deterministic, monkeypatch):
    """Queries fill several programs of each image, the last one not wholly."""
    launch_always(monkeypatch, launch.Launch(2, 1), launch.Segments(2, 1, patch_samples=1))
    case = {"queries": 7, "points": 2}
    expected = run("reference", "key_aware_shared", make_problem(**case))
    assert_equal(
        run("triton", "key_aware_shared", make_problem(**case).to(DEVICE), deterministic=deterministic), expected
    )


@pytest.mark.parametrize("tile_height", [2, 4])
def test_tiles_of_a_query_grid(tile_height, monkeypatch):
    launch_always(monkeypatch, launch.Launch(4, 1, tile_height))
    case = {"queries": 5 * 3 + 2, "points": 2}
    expected = run("reference", "key_aware_shared", make_problem(**case))
    problem = make_problem(**case, query_shapes=((5, 3), (1, 2))).to(DEVICE)
    assert_equal(run("triton", "key_aware_shared", problem, deterministic=False), expected)


def test_tile_order_holds_every_query_once_tile_by_tile():
    order = tile_order(((3, 5), (1, 2)), (2, 2), torch.device("cpu"))
    assert order.tolist()[:8] == [0, 1, 5, 6, 2, 3, 7, 8]
    assert sorted(q for q in order.tolist() if q >= 0) == list(range(17))
    assert len(order) % 4 == 0


def test_non_contiguous_inputs():
    problem = make_problem()
    expected = run("reference", "key_aware", problem)
    for name, x in problem.tensors.items():
        turned = x.detach().to(DEVICE).transpose(0, 1).contiguous().transpose(0, 1)
        problem.tensors[name] = turned.requires_grad_()
        assert not turned.is_contiguous()
    assert_equal(run("triton", "key_aware", problem.to(DEVICE), deterministic=False), expected)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_expanded_gradient_of_the_output(deterministic):
    """sum() hands down a gradient of stride zero."""
    problem, like = make_problem().to(DEVICE), make_problem()
    attend("key_aware_shared", problem, "triton", deterministic=deterministic).sum().backward()
    attend("key_aware_shared", like, "reference").sum().backward()
    torch.testing.assert_close(problem.tensors["value"].grad.cpu(), like.tensors["value"].grad, atol=EXACT, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_deterministic_gives_the_same_bits(kind):
    """Many samples on few pixels, in single precision."""
    problem = make_problem(shapes=((3, 3),), queries=30, points=4, dtype=torch.float32).to(DEVICE)
    first, second = (run("triton", kind, problem, deterministic=True) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_deterministic_follows_torch():
    """The autouse fixture has asked for deterministic algorithms; atomics of many terms would differ in sum order."""
    problem = make_problem(shapes=((2, 2),), queries=9, dtype=torch.float32).to(DEVICE)
    assert_bits = run("triton", "key_aware_shared", problem, deterministic=True)["value"]
    assert torch.equal(run("triton", "key_aware_shared", problem)["value"], assert_bits)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_locations_far_outside_read_zero_and_write_nothing(bad, deterministic):
    problem = make_problem(dtype=torch.float32)
    with torch.no_grad():
        problem.tensors["offsets"].fill_(bad)
    results = run("triton", "key_aware", problem.to(DEVICE), deterministic=deterministic)
    assert not results["output"].any()
    assert not results["key"].any()
    assert not results["value"].any()


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_a_location_that_is_no_number_touches_its_query_alone(deterministic):
    problem = make_problem()
    with torch.no_grad():
        problem.tensors["offsets"][0, 1] = float("nan")
    results = run("triton", "key_aware_shared", problem.to(DEVICE), deterministic=deterministic)
    assert results["output"][0, 1].isnan().all()
    assert results["output"][1].isfinite().all()
    assert results["value"].isfinite().all()


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_valid_sizes_beyond_the_level_are_the_level(deterministic):
    """Neither another level nor memory outside the table is read, and a negative size is no size at all."""
    whole, lying = make_problem(), make_problem()
    lying.valid_sizes = torch.full((2, 2, 2), 1000)
    expected = run("reference", "key_aware", whole)
    assert_equal(run("triton", "key_aware", lying.to(DEVICE), deterministic=deterministic), expected)
    lying.valid_sizes = torch.full((2, 2, 2), -1)
    assert not run("triton", "key_aware", lying.to(DEVICE), deterministic=deterministic)["output"].any()


def test_only_the_gradients_that_are_wanted():
    problem = make_problem().to(DEVICE)
    for name in ("reference", "offsets", "query"):
        problem.tensors[name].requires_grad_(False)
    results = run("triton", "key_aware_shared", problem, deterministic=False)
    assert set(results) == {"output", "value"}
    torch.testing.assert_close(
        results["value"].cpu(), run("reference", "key_aware_shared", make_problem())["value"], atol=EXACT, rtol=0
    )


def test_a_cpu_tensor_without_the_interpreter_is_refused():
    code = (
        "import torch, litedetr.kernels.functional as kernels\n"
        "points = kernels.SamplingPoints(torch.rand(1, 1, 1, 2), torch.rand(1, 1, 1, 1, 1, 2), ((2, 2),))\n"
        "kernels.key_aware_attention(torch.rand(1, 1, 1, 4), torch.rand(1, 4, 1, 4), points, backend='triton')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "ValueError: backend: 'triton' needs tensors on a GPU, got cpu" in result.stderr


def test_wrong_query_shapes_are_named():
    problem = make_problem(query_shapes=((2, 2),))
    with pytest.raises(ValueError, match="^query_shapes: expected 3 cells"):
        attend("key_aware_shared", problem, "auto")


def test_offsets_beyond_32_bits_are_counted_in_64(monkeypatch):
    """The same result with wide indices, as a table of 2^31 elements would need."""
    from litedetr.kernels.fused import call

    monkeypatch.setattr(call, "MOST_INT32", 3)
    expected = run("reference", "key_aware_shared", make_problem())
    assert_equal(run("triton", "key_aware_shared", make_problem().to(DEVICE), deterministic=False), expected)
