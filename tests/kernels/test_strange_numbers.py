"""What the docstring of SamplingPoints says of infinity and of what is no number, on every backend."""

from dataclasses import replace

import pytest
import torch
from kernel_helpers import make_problem, run

from litedetr.kernels import reference
from litedetr.kernels.functional import key_aware_attention

pytestmark = pytest.mark.usefixtures("few_programs")

INFINITE, NONE = float("inf"), float("nan")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]
BACKENDS = {
    "reference": {"backend": "reference"},
    "cpu": {"backend": "auto"},
    "atomic": {"backend": "triton", "deterministic": False},
    "deterministic": {"backend": "triton", "deterministic": True},
}


@pytest.fixture(params=BACKENDS)
def backend(request) -> dict:
    return BACKENDS[request.param]


def results(backend, kind, problem):
    """Output and gradients by name, on the CPU."""
    on_device = problem if backend["backend"] == "auto" else problem.to(DEVICE)
    return {name: x.cpu() for name, x in run(kind=kind, problem=on_device, **backend).items()}


def changed(place, number, name="offsets", **case):
    """A problem with a number in a place of a tensor."""
    problem = make_problem(**case)
    with torch.no_grad():
        problem.tensors[name][place] = number
    return problem


@pytest.mark.parametrize("kind", KINDS)
def test_a_location_that_is_no_number_spoils_its_query_head_alone(backend, kind):
    """One head's samples of one level: no token of the level has a gradient of theirs."""
    found = results(backend, kind, changed((0, 1, 0, 0), NONE))
    sound = results(BACKENDS["reference"], kind, make_problem())
    output = found["output"].view(2, 3, 2, 4)
    assert output[0, 1, 0].isnan().all()
    assert output.isnan().sum() == 4
    for name in {"value", "key"} & found.keys():
        assert found[name][0, :20, 0].isfinite().all()  # of the level
        for others in ((slice(None), slice(None), 1), (1,)):  # of the other head, and of the other image
            torch.testing.assert_close(found[name][others], sound[name][others], atol=1e-11, rtol=0)
    if kind == "deformable":  # weights do not depend on what is read
        assert found["value"].isfinite().all()


@pytest.mark.parametrize(("name", "number"), [("offsets", INFINITE), ("reference", -INFINITE), ("offsets", -1e30)])
def test_a_location_far_away_is_one_just_outside(backend, name, number):
    found = results(backend, "key_aware", changed((0, 1), number, name))
    expected = results(BACKENDS["reference"], "key_aware", changed((0, 1), 1000.0 if number > 0 else -1000.0, name))
    for name, tensor in expected.items():
        assert tensor.isfinite().all()
        torch.testing.assert_close(found[name], tensor, atol=1e-11, rtol=0)


@pytest.mark.parametrize("size", [0.0, -0.5, INFINITE, NONE])
def test_boxes_of_any_size(backend, size):
    problem = changed((0, 1, ..., slice(2, None)), size, "reference", boxes=True)
    out = results(backend, "key_aware_shared", problem)["output"]
    torch.testing.assert_close(
        out, results(BACKENDS["reference"], "key_aware_shared", problem)["output"], equal_nan=True
    )
    assert out[0, 1].isnan().all() == (size != size)
    assert out[0, 1].any() == (abs(size) != INFINITE)  # an infinite one lies outside


def test_an_infinite_box_without_offset_is_no_number(backend):
    problem = changed((0, 1, ..., slice(2, None)), INFINITE, "reference", boxes=True)
    with torch.no_grad():
        problem.tensors["offsets"][0, 1, 1, 0, 0] = 0.0
    output = results(backend, "key_aware_shared", problem)["output"].view(2, 3, 2, 4)
    assert output[0, 1, 1].isnan().all()
    assert output.isnan().sum() == 4


def test_what_lies_in_the_padding_is_not_read(backend):
    """The second image's first level ends a row and two columns early."""
    problem = changed((1, slice(16, 20)), NONE, "value", padded=True)
    with torch.no_grad():
        problem.tensors["key"][1, 16:20] = INFINITE
    found = results(backend, "key_aware", problem)
    for name, tensor in results(BACKENDS["reference"], "key_aware", make_problem(padded=True)).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-11, rtol=0)


@pytest.mark.parametrize("size", [2**31, 2**32 + 1])
def test_valid_sizes_beyond_32_bits_are_the_level(backend, size):
    lying = make_problem()
    lying.valid_sizes = torch.full((2, 2, 2), size)
    found = results(backend, "key_aware_shared", lying)
    for name, tensor in results(BACKENDS["reference"], "key_aware_shared", make_problem()).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-11, rtol=0)


@pytest.mark.parametrize("logit", [-INFINITE, torch.finfo(torch.float32).min, INFINITE])
@pytest.mark.parametrize("everywhere", [False, True], ids=["one", "all"])
def test_logits_of_any_size(backend, logit, everywhere):
    """Three points, which leave a row of the kernels' four empty."""
    problem = changed((0, 1, 0) if everywhere else (0, 1, 0, 0), logit, "logits", dtype=torch.float32)
    expected = results(BACKENDS["reference"], "deformable", problem)["output"]
    found = results(backend, "deformable", problem)["output"]
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_score_spoils_the_gradients_of_what_its_head_samples(backend, kind):
    problem = changed((0, 1, 0, 0), NONE, "logits" if kind == "deformable" else "query")
    found, expected = (results(which, kind, problem) for which in (backend, BACKENDS["reference"]))
    assert not expected["value"].isfinite().all()
    for name in {"value", "key"} & found.keys():
        is_number = expected[name].isfinite()
        assert torch.equal(found[name].isfinite(), is_number)
        torch.testing.assert_close(found[name][is_number], expected[name][is_number], atol=1e-11, rtol=0)


def test_a_key_of_infinite_score_has_no_weight(backend):
    """Minus infinity, of the samples beside the first ten tokens."""
    problem = make_problem(channels=1, queries=6)
    with torch.no_grad():
        problem.tensors["key"][:, :10].fill_(INFINITE)
        problem.tensors["query"].abs_().neg_()
    found, expected = (results(which, "key_aware", problem) for which in (backend, BACKENDS["reference"]))
    assert not expected["value"][:, :5].any()
    for name in ("output", "value"):
        assert expected[name].isfinite().all()
        assert expected[name].any()
        torch.testing.assert_close(found[name], expected[name], atol=1e-11, rtol=0)


def test_scores_that_a_half_cannot_hold(backend):
    """q . k is 16 * 200 * 200 * 0.5 / 4 = 80,000 in places; weights are those of single precision."""
    problem = make_problem(channels=16, dtype=torch.float32)
    with torch.no_grad():
        for name in ("query", "key"):
            problem.tensors[name].mul_(200)
    half = problem.cast(torch.float16)
    found = results(backend, "key_aware", half)["output"]
    exact = results(BACKENDS["reference"], "key_aware", half.cast(torch.float32))["output"]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), exact, atol=4e-3, rtol=0)


def test_the_reference_keeps_its_precision_under_autocast():
    problem = make_problem(channels=16, dtype=torch.float32)
    t = problem.tensors
    query, value = (200 * t[name].detach() for name in ("query", "value"))
    with torch.autocast("cpu", torch.float16):
        found = key_aware_attention(query, value, problem.points, backend="reference")
    assert found.isfinite().all()
    exact = reference.key_aware_attention(query.half().float(), value.half().float(), problem.points)
    torch.testing.assert_close(found, exact.half())


def test_half_precision_offsets_leave_the_sizes_of_levels_alone():
    """333 is no number in bfloat16."""
    points = make_problem(shapes=((2, 333),), dtype=torch.float32).points
    offsets = points.offsets.detach().bfloat16()
    found, exact = (replace(points, offsets=x).pixel_locations() for x in (offsets, offsets.float()))
    torch.testing.assert_close(found, exact, atol=0, rtol=0)
