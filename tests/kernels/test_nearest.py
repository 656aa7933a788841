"""Nearest sampling: which pixel a location reads, and what has a gradient. Outputs by loops: test_reference.py."""

from dataclasses import replace

import pytest
import torch
from kernel_helpers import NEAREST, NEAREST_OPERATORS, RMS, attend, make_problem, run
from torch.autograd import gradcheck, gradgradcheck

from litedetr.kernels.functional import attend as attend_inputs
from litedetr.kernels.inputs import Inputs
from litedetr.kernels.points import SamplingPoints

pytestmark = pytest.mark.usefixtures("few_programs")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NONE = float("nan")
INFINITE = float("inf")
KINDS = ["deformable", "key_aware_shared", "key_aware"]
BACKENDS = [*NEAREST_OPERATORS, "reference"]
HEIGHT, WIDTH = 3, 4


def pixel_read(x: float, y: float, backend: str, sampling: str = "nearest") -> float:
    """1 + the index of the pixel of a HEIGHT x WIDTH map that a location (x, y), in pixels from the corner, reads; 0
    outside.
    """
    value = torch.arange(1.0, 1 + HEIGHT * WIDTH).view(1, -1, 1, 1)
    offsets = torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2)
    points = SamplingPoints(torch.zeros(1, 1, 1, 2), offsets, ((HEIGHT, WIDTH),), sampling=sampling)
    inputs = Inputs(None, None, value, torch.zeros(1, 1, 1, 1), points).map(lambda tensor: tensor.to(DEVICE))
    return attend_inputs(inputs, backend).item()


BEFORE, BEHIND = (float(torch.tensor(2.0).nextafter(torch.tensor(end))) for end in (0.0, 3.0))
PLACES = [
    (0.5, 0.5, 1),  # the centre of the first pixel
    (0.99, 0.01, 1),
    (BEFORE, 0.5, 2),
    (2.0, 0.5, 3),  # between two pixels: the right one
    (BEHIND, 0.5, 3),
    (0.5, 2.0, 9),  # the lower one
    (2.0, 2.0, 11),
    (0.0, 0.0, 1),  # the first edge is the first pixel's
    (-1e-3, 0.5, 0),
    (0.5, -1e-3, 0),
    (WIDTH - 1e-3, HEIGHT - 1e-3, 12),
    (WIDTH, 0.5, 0),  # the last edge is a pixel's that does not exist
    (0.5, HEIGHT, 0),
    (INFINITE, 0.5, 0),
    (0.5, -INFINITE, 0),
    (1e30, -1e30, 0),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("x", "y", "expected"), PLACES)
def test_a_location_reads_the_pixel_that_it_lies_in(x, y, expected, backend):
    assert pixel_read(x, y, backend) == expected


def test_bilinear_sampling_stays_the_default():
    problem = make_problem()
    assert problem.points.sampling == SamplingPoints(*[None] * 3).sampling == "bilinear"
    assert pixel_read(2.0, 0.5, "auto", "bilinear") == 2.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_other_pixel_is_read(backend):
    """All others are NaN, which a product with a weight of zero would not hide."""
    value = torch.full((1, HEIGHT * WIDTH, 1, 2), NONE)
    value[0, 5] = 7.0  # row 1, column 1
    offsets = torch.tensor([[1.0, 1.0], [1.7, 1.2], [1.5, 1.99], [INFINITE, 0.0]]).view(1, 1, 1, 1, 4, 2)
    points = SamplingPoints(torch.zeros(1, 1, 1, 2), offsets, ((HEIGHT, WIDTH),), sampling="nearest")
    inputs = Inputs(None, None, value, torch.zeros(1, 1, 1, 4), points).map(lambda tensor: tensor.to(DEVICE))
    torch.testing.assert_close(attend_inputs(inputs, backend).cpu(), torch.full((1, 1, 2), 7 * 0.75))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", NEAREST)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_the_location_are_zeros(backend, case, kind):
    found = run(backend, kind, make_problem(**NEAREST[case]).to(DEVICE))
    assert not found.pop("reference").any()
    assert not found.pop("offsets").any()
    assert all(tensor.any() for tensor in found.values())


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck], ids=["first", "second"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_derivatives_match_finite_differences(kind, check, boxes):
    case = {"shapes": ((3, 2), (2, 2)), "batch": 1, "queries": 2, "channels": 2, "points": 2, "padded": True}
    problem = make_problem(**case, boxes=boxes, sampling="nearest")
    names = {"deformable": ("logits", "value"), "key_aware_shared": ("query", "value")}
    names = names.get(kind, ("query", "value", "key"))

    def function(*given):
        return attend(kind, replace(problem, tensors=problem.tensors | dict(zip(names, given, strict=True))), which)

    which = "reference"
    given = [problem.tensors[name] for name in names]
    assert check(function, given)
    which = "auto"
    assert check is gradgradcheck or check(function, given)  # the CPU path differentiates once


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", NEAREST_OPERATORS)
def test_precisions(backend, dtype):
    """As the reference on the rounded inputs, but for one rounding of results: see RMS."""
    problem = make_problem(queries=20, channels=32, dtype=torch.float32, sampling="nearest").cast(dtype)
    expected = run("reference", "key_aware", problem.cast(torch.float64))
    for name, tensor in run(backend, "key_aware", problem.to(DEVICE)).items():
        error = tensor.cpu().double() - expected[name]
        assert error.square().mean().sqrt() <= RMS[dtype] * expected[name].square().mean().sqrt(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_location_that_is_no_number(backend, kind):
    """Its query head is NaN, with the gradients of query or logits; no location has a gradient, nor has a token."""
    problem = make_problem(sampling="nearest").to(DEVICE)
    sound = run("reference", kind, problem.to("cpu"))
    with torch.no_grad():
        problem.tensors["offsets"][0, 1, 0, 0, 0] = NONE
    found = {name: tensor.cpu() for name, tensor in run(backend, kind, problem).items()}
    output = found["output"].view(2, 3, 2, 4)
    assert output[0, 1, 0].isnan().all()
    assert output.isnan().sum() == 4
    assert not found["offsets"].any()
    assert not found["reference"].any()
    scorer = found["logits" if kind == "deformable" else "query"]
    assert scorer[0, 1, 0].isnan().all()
    assert scorer.isnan().sum() == scorer[0, 1, 0].numel()
    for others in ((slice(None), slice(None), 1), (1,)):  # the other head, and the other image
        torch.testing.assert_close(found["value"][others], sound["value"][others], atol=1e-11, rtol=0)


@pytest.mark.parametrize("sampling", ["bicubic", "", "Nearest", None, True, 1, ["nearest"], torch.zeros(2)], ids=str)
@pytest.mark.parametrize("backend", ["auto", "triton", "reference"])
def test_another_sampling_is_refused(backend, sampling):
    with pytest.raises(ValueError, match="^sampling: expected one of bilinear, nearest, got "):
        attend("deformable", replace(make_problem(), sampling=sampling), backend)


def test_samplings_are_not_taken_for_one_another():
    """What is known of a call with the same sizes belongs to its sampling."""
    problems = [make_problem(sampling=sampling) for sampling in ("bilinear", "nearest", "bilinear")]
    first, other, again = (attend("key_aware", problem, "auto") for problem in problems)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
