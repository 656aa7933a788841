"""Where one mask, limit or rounding of the Triton kernels decides: problems so small that nothing else hides it."""

import os
from contextlib import nullcontext

import pytest
import torch
import triton.language as tl
from kernel_helpers import Problem, make_problem, run

from litedetr.kernels.fused import backend, call, launch
from litedetr.kernels.fused.sizes import Sizes
from litedetr.kernels.inputs import Inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]
HALVES = [torch.float16, torch.bfloat16]
EXACT = 1e-11  # as in test_fused.py
SMALL = {"batch": 1, "heads": 1, "queries": 2}


@pytest.fixture(autouse=True)
def poisoned_memory():
    """As in test_fused.py."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def watched():
    """Each access of an interpreted kernel lies within its tensor."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return nullcontext()
    from memory_guard import guarded, obstacle  # not above: skips where there is no interpreter

    return nullcontext() if obstacle() else guarded()


def assert_like_reference(kind: str, problem: Problem, deterministic: bool = False) -> dict:
    """In double precision; gives the results."""
    expected = run("reference", kind, problem)
    with watched():
        found = run("triton", kind, problem.to(DEVICE), deterministic=deterministic)
    for name, tensor in expected.items():
        assert tensor.isfinite().all(), name
        actual = found[name].cpu()
        torch.testing.assert_close(actual, tensor, atol=EXACT, rtol=EXACT, msg=lambda m, n=name: f"{n}: {m}")
    return found


def on_pixels(**case) -> Problem:
    """Every location is the centre of a pixel, in or beside the level."""
    problem = make_problem(shapes=((3, 4),), **(SMALL | case))
    with torch.no_grad():
        problem.tensors["reference"].zero_()
        problem.tensors["offsets"].round_().add_(0.5)
    return problem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_locations_on_a_pixel_have_the_slope_to_the_next(kind, deterministic):
    """The next pixel weighs nothing, but the gradient of the location needs it."""
    problem = on_pixels(queries=3, points=4)
    assert assert_like_reference(kind, problem, deterministic)["offsets"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_pixel_of_the_valid_part(kind):
    """The padding behind it is not read, also from within, nor has it a slope of its own."""
    problem = on_pixels(points=4, queries=3)
    problem.valid_sizes = torch.tensor([[[2, 2]]])
    with torch.no_grad():
        problem.tensors["offsets"].copy_(torch.tensor([[1.5, 0.5], [1.25, 2.75], [1.75, 1.75], [-0.25, 0.5]]))
    assert_like_reference(kind, problem)


@pytest.mark.parametrize("size", [(1000, 2), (2, 1000), (-1, 2), (2, -1)], ids=str)
def test_valid_sizes_that_no_level_has(size):
    """Of the only level: beyond it there is no memory."""
    problem = on_pixels(points=4, queries=3)
    problem.valid_sizes = torch.tensor([[size]])
    with torch.no_grad():  # two just outside
        problem.tensors["offsets"].copy_(torch.tensor([[4.5, 0.5], [0.5, 3.5], [1.75, 1.25], [2.5, 0.5]]))
    found = assert_like_reference("deformable", problem)
    assert found["output"].any() == (min(size) > 0)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("score", [-300.0, 300.0])
def test_scores_far_from_zero(kind, score):
    """With three points: the fourth of the kernels' four has no score, not one of zero."""
    problem = make_problem(shapes=((3, 4),), channels=4, points=3, **SMALL)
    with torch.no_grad():
        problem.tensors["offsets"].mul_(0.1)
        problem.tensors["reference"].clamp_(0.3, 0.7)
        for name in ("key", "value"):
            problem.tensors[name].mul_(0.01).add_(1.0)
        problem.tensors["query"].fill_(score / 2)
    assert_like_reference(kind, problem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [3, 5])
def test_infinite_boxes(kind, points):
    """They have no location that is inside; points that do not exist have none either, and are NaN nowhere."""
    problem = make_problem(shapes=((3, 4),), boxes=True, points=points, **SMALL)
    with torch.no_grad():
        problem.tensors["reference"][..., 2:] = float("inf")
    results = {}
    for way in ("reference", "triton"):
        with watched():
            results[way] = run(way, kind, problem.to(DEVICE))
    for name in {"output", "value", "key", "query", "logits"} & results["triton"].keys():
        torch.testing.assert_close(results["triton"][name], results["reference"][name], msg=name)
        assert name != "value" or not results["triton"][name].any()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e30])
@pytest.mark.filterwarnings("error:invalid value encountered in cast")
def test_no_location_becomes_an_integer_that_does_not_hold_it(number):
    """What such a cast gives depends on the machine."""
    problem = make_problem(shapes=((3, 2),), points=1, **SMALL)
    with torch.no_grad():
        problem.tensors["offsets"][0, 0] = number
    for deterministic in (False, True):
        run("triton", "deformable", problem.to(DEVICE), deterministic=deterministic)


@pytest.mark.parametrize("order", ["rising", "falling", "one peak"])
@pytest.mark.parametrize(("levels", "points"), [(5, 4), (4, 5), (1, 17)])
def test_more_logits_than_are_normalised_at_a_time(levels, points, order):
    """The running maximum changes between the parts, or does not; the last part is not whole."""
    samples = levels * points
    assert backend.MOST_LOGITS < samples < 2 * backend.MOST_LOGITS
    problem = make_problem(shapes=((3, 2),) * levels, points=points, **SMALL)
    line = torch.linspace(-4, 4, samples, dtype=torch.float64)
    with torch.no_grad():
        problem.tensors["logits"].copy_({"rising": line, "falling": -line, "one peak": 4 - line.abs()}[order])
        problem.tensors["logits"][0, 1] -= 700  # exp(logit) underflows
    assert_like_reference("deformable", problem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [{"channels": 6}, {"channels": 5}, {"channels": 4}], ids=str)
def test_what_does_not_fill_a_block_writes_nothing_beside_it(kind, case, monkeypatch):
    """Blocks of four queries, of which three exist; six channels are two tiles of four words, three of which exist."""
    monkeypatch.setattr(launch, "rule", lambda shape: launch.Launch(4, 1))
    assert_like_reference(kind, make_problem(shapes=((2, 3),), **(SMALL | case | {"queries": 3, "points": 2})))


def test_places_of_a_tile_without_a_query(monkeypatch):
    """Tiles of 2 x 2 queries on a grid of 3 x 1."""
    monkeypatch.setattr(launch, "rule", lambda shape: launch.Launch(4, 1, 2))
    case = SMALL | {"shapes": ((2, 3),), "queries": 3, "points": 2, "query_shapes": ((3, 1),)}
    assert_like_reference("key_aware_shared", make_problem(**case))


@pytest.mark.parametrize("kind", KINDS)
def test_channels_of_halves_that_do_not_fill_a_block(kind, monkeypatch):
    """Ten channels are five words of eight; whole numbers keep the sums of locations on pixels exact."""
    monkeypatch.setattr(launch, "rule", lambda shape: launch.Launch(4, 1))
    problem = make_problem(
        shapes=((2, 3), (2, 2)), channels=10, points=2, **(SMALL | {"queries": 3, "dtype": torch.float32})
    ).cast(torch.float16)
    expected = run("reference", kind, problem.cast(torch.float64))
    with watched():
        found = run("triton", kind, problem.to(DEVICE), deterministic=False)
    for name, tensor in found.items():
        assert tensor.isfinite().all(), name
        torch.testing.assert_close(tensor.cpu().double(), expected[name], atol=1e-2, rtol=1e-2, msg=name)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_of_a_word_are_apart(dtype, kind, deterministic):
    """One sample on the last pixel gives back its value and sends it the gradient: exactly, channel by channel.

    Bits of the lower half that were left in the upper one would round up: those of -1.5 are most of one.
    """
    problem = on_pixels(queries=1, points=1, channels=4, dtype=torch.float32).cast(dtype)
    value = torch.tensor([-1.5, 1.0, -1.75, 2.0], dtype=dtype)
    with torch.no_grad():
        problem.tensors["value"].copy_(value)
        problem.tensors["query"].zero_()
        problem.tensors["offsets"].copy_(torch.tensor([3.5, 2.5]))
    found = run("triton", kind, problem.to(DEVICE), deterministic=deterministic)
    assert torch.equal(found["output"].flatten().cpu(), value)
    gradient = torch.linspace(-1, 1, 4).bfloat16().to(dtype)
    assert torch.equal(found["value"][0, 11, 0].cpu(), gradient)
    assert found["value"].count_nonzero() == 4


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_log_sum_exp_of_halves(dtype):
    """In single precision, of one sample: its score, with all factors; bits of another half would show."""
    problem = on_pixels(queries=1, points=1, channels=4, dtype=torch.float32).cast(dtype)
    with torch.no_grad():
        problem.tensors["offsets"].copy_(torch.tensor([1.5, 1.5]))
        problem.tensors["query"].copy_(torch.tensor([-1.5, 1.0, 3.0, 2.0]))
        problem.tensors["value"].copy_(torch.tensor([-1.5, 1.0, 7.0, 0.5]))
    t = problem.tensors
    inputs = Inputs(t["query"].detach(), None, t["value"].detach(), None, problem.points).map(
        lambda x: x.detach().to(DEVICE)
    )
    saved = backend.FusedBackend(launch.given(forward=launch.Launch(1, 1))).forward(inputs, False)
    assert saved.log_sum_exp.dtype == torch.float32
    torch.testing.assert_close(saved.log_sum_exp.item(), (2.25 + 1 + 21 + 1) / 2, rtol=2e-7, atol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_views_that_begin_in_the_middle_of_a_word(dtype):
    """A GPU would not read the words of one at an odd address."""
    memory = torch.arange(9, dtype=dtype, device=DEVICE)
    view = memory[1:].view(2, 4)
    assert view.is_contiguous()
    assert view.data_ptr() % 4
    read = call.contiguous(view)
    assert read.data_ptr() % 4 == 0
    assert torch.equal(read, view)
    aligned = memory[2:]
    assert call.contiguous(aligned) is aligned
    assert call.contiguous(None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_is_read_from_the_start_of_a_word(kind):
    """Also the tensors that only the backward pass gets."""
    launches = []

    def launcher(kernel, grid, *arguments, **constants):
        launches.append([x for x in arguments if isinstance(x, torch.Tensor)])
        call.launch_kernel(kernel, grid, *arguments, **constants)

    problem = make_problem(shapes=((3, 2),), points=2, dtype=torch.float32, **SMALL).cast(torch.float16)
    odd = {name: torch.cat((x.detach().flatten()[:1], x.detach().flatten())) for name, x in problem.tensors.items()}
    problem.tensors = {name: x[1:].view_as(problem.tensors[name]) for name, x in odd.items()}
    t = problem.tensors
    given = {
        "deformable": (None, None, t["value"], t["logits"]),
        "key_aware_shared": (t["query"], None, t["value"], None),
        "key_aware": (t["query"], t["key"], t["value"], None),
    }
    inputs = Inputs(*given[kind], problem.points)
    blocks = launch.Launch(2, 1)
    fused = backend.FusedBackend(launch.given(forward=blocks, backward=blocks), launcher)
    saved = fused.forward(inputs, False)
    grad_out = torch.cat((saved.out.flatten()[:1], saved.out.flatten()))[1:].view_as(saved.out)
    fused.backward(inputs, saved, grad_out, False, True)
    assert len(launches) == 2
    assert all(tensor.data_ptr() % 4 == 0 for tensors in launches for tensor in tensors)


SIZES = Sizes.of(Inputs(None, None, torch.zeros(1, 6, 1, 4), torch.zeros(1), make_problem(shapes=((2, 3),)).points))


@pytest.mark.parametrize(
    ("sizes", "is_wide"),
    [
        ({"heads": 8, "channels": 32, "shapes": ((2**12 - 1, 2**11 - 1),)}, True),  # of a table: 2^31
        ({"heads": 8, "channels": 31, "shapes": ((2**12 - 1, 2**11 - 1),)}, False),
        ({"heads": 8, "channels": 32, "queries": 2**23}, True),  # of queries
        ({"heads": 8, "channels": 32, "queries": 2**23 - 1}, False),
        ({"heads": 8, "channels": 4, "points": 2, "queries": 2**25}, True),  # of coefficients of samples
        ({"heads": 8, "channels": 4, "points": 2, "queries": 2**25 - 1}, False),
    ],
)
def test_indices_are_wide_only_where_32_bits_do_not_hold_them(sizes, is_wide):
    assert call._index_type(SIZES._replace(levels=1)._replace(**sizes)) == (tl.int64 if is_wide else tl.int32)


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_reference_sums_all_points_of_its_level_only(kind, boxes):
    """Nine points are three steps of a level, and each level begins anew."""
    problem = make_problem(shapes=((3, 2), (2, 3)), points=9, boxes=boxes, **SMALL)
    assert_like_reference(kind, problem)
