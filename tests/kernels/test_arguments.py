"""Arguments that cannot be: one error that names the argument, what was expected and what came, on every backend."""

from dataclasses import replace

import pytest
import torch
from kernel_helpers import make_problem, run

from litedetr.kernels.functional import SamplingPoints, deformable_attention, key_aware_attention

pytestmark = pytest.mark.usefixtures("few_programs")

BACKENDS = ["auto", "triton", "reference"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
POINTS = ("reference", "offsets", "shapes", "valid_sizes", "query_shapes")
PER_QUERY = ("reference", "offsets")


def attend(backend, kind="key_aware", **changes):
    """Of three queries, three levels and 27 tokens, single precision, with some arguments changed by functions."""
    problem = make_problem(((5, 4), (3, 2), (1, 1)), dtype=torch.float32, padded=True).to(DEVICE)
    given = problem.tensors | {
        "shapes": problem.shapes,
        "valid_sizes": problem.valid_sizes,
        "query_shapes": ((1, 3),),
    }
    given |= {name: change(given[name]) for name, change in changes.items()}
    points = SamplingPoints(**{name: given[name] for name in POINTS})
    if kind == "deformable":
        return deformable_attention(given["value"], given["logits"], points, backend)
    return key_aware_attention(given["query"], given["value"], points, given["key"], backend)


def test_the_unchanged_call_is_right():
    for kind in ("deformable", "key_aware"):
        outputs = [attend(backend, kind) for backend in BACKENDS]
        torch.testing.assert_close(outputs[0], outputs[2])
        torch.testing.assert_close(outputs[1], outputs[2])


TENSORS = ("query", "key", "value", "logits", "reference", "offsets", "valid_sizes")
WRONG_TENSORS = {
    "no tensor": lambda x: x.tolist(),
    "a number": lambda x: x.flatten()[0],
    "complex": lambda x: x.to(torch.complex64),
    "boolean": lambda x: x.bool(),
    "bytes": lambda x: x.to(torch.uint8),
    "an image less": lambda x: x[:1],
    "a dimension more": lambda x: x.unsqueeze(0),
    "turned": lambda x: x.transpose(0, 1),
    "on another device": lambda x: x.to("meta"),
    "without the last": lambda x: x[..., :0],
    "sparse": lambda x: x.detach().to_sparse(),
    "compressed": lambda x: x.detach().flatten(0, -2).to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor(list(x.detach())),
    "jagged": lambda x: torch.nested.nested_tensor(list(x.detach()), layout=torch.jagged),
    "masked": lambda x: torch.masked.masked_tensor(x.detach(), torch.ones_like(x, dtype=torch.bool)),
    "without a shape yet": lambda x: torch.nn.UninitializedBuffer(dtype=x.dtype, device=x.device),
}


@pytest.mark.filterwarnings("ignore:.*(prototype stage|beta state)")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", WRONG_TENSORS)
@pytest.mark.parametrize("name", TENSORS)
def test_wrong_tensors_are_named(name, change, backend):
    """Where the images or heads of `value` are fewer, `offsets` are what does not fit."""
    blamed = "(value|offsets)" if name == "value" else name
    with pytest.raises((ValueError, TypeError), match=f"^{blamed}: expected .*, got "):
        attend(backend, "deformable" if name == "logits" else "key_aware", **{name: WRONG_TENSORS[change]})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:.*(prototype stage|beta state)")
def test_what_is_not_dense_is_told_as_such(backend):
    for kind in ("sparse", "compressed", "nested", "jagged", "masked", "without a shape yet"):
        with pytest.raises(ValueError, match="^value: expected a dense tensor .*, got (layout|a nested|[MU])"):
            attend(backend, value=WRONG_TENSORS[kind])
    for lowered in (torch.Tensor.to_mkldnn, lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)):
        with pytest.raises(ValueError, match="^value: expected .*, got (layout torch._mkldnn|torch.qint8)"):
            attend(backend, value=lambda x, lowered=lowered: lowered(x.detach().cpu()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dense_tensors_of_other_kinds_are_taken(backend):
    expected = attend("reference")
    for kind in (torch.nn.Parameter, lambda x: torch._neg_view(-x), lambda x: x.detach().as_subclass(Subclass)):
        changes = dict.fromkeys(("query", "key", "value", "reference", "offsets"), kind)
        torch.testing.assert_close(attend(backend, **changes).as_subclass(torch.Tensor), expected)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["query", "key", "logits"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64], ids=str)
def test_precisions_are_not_mixed(name, dtype, backend):
    with pytest.raises(ValueError, match=f"^{name}: expected .*float32.*, got {dtype}"):
        attend(backend, "deformable" if name == "logits" else "key_aware", **{name: lambda x: x.to(dtype)})


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_may_have_a_precision_of_their_own(backend):
    found = attend(backend, reference=lambda x: x.double(), offsets=lambda x: x.half())
    torch.testing.assert_close(found, attend("reference", offsets=lambda x: x.half().float()))


WRONG_SHAPES = {
    "a number": 27,
    "a tensor": torch.tensor([[5, 4], [3, 2], [1, 1]]),
    "flat": (5, 4, 3, 2, 1, 1),
    "triples": ((5, 4, 1), (3, 2, 1), (1, 1, 1)),
    "fractions": ((5.0, 4), (3, 2), (1, 1)),
    "negative": ((-5, -4), (3, 2), (1, 1)),
    "too many": ((5, 4), (3, 3), (1, 1)),
    "too few": ((5, 4), (3, 1), (1, 1)),
    "no level": (),
    "another level of nothing": ((5, 4), (3, 2), (1, 1), (0, 0)),
    "huge": ((2**31, 2**31), (3, 2), (1, 1)),
    "a product that wraps to nothing": ((2**32, 2**32), (13, 2), (1, 1)),
    "empty, but long": ((5, 4), (7, 1), (0, 2**31)),
    "nothing": None,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shapes", WRONG_SHAPES.values(), ids=list(WRONG_SHAPES))
def test_wrong_shapes_are_named(shapes, backend):
    with pytest.raises(ValueError, match="^(shapes|value|offsets): expected .*, got "):
        attend(backend, shapes=lambda _: shapes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shapes", [((-1, -3),), ((1, 2),), ((1.5, 2),), (3,), 3, ((2**32, 2**32), (1, 3))], ids=str)
def test_wrong_query_shapes_are_named(shapes, backend):
    with pytest.raises(ValueError, match="^query_shapes: expected .*, got "):
        attend(backend, query_shapes=lambda _: shapes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"shapes": ((0, 0), (0, 3))}], ids=str)
@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
def test_nothing_gives_nothing(kind, sizes, backend):
    """No image, no query; of no token, zero."""
    problem = make_problem(**sizes).to(DEVICE)
    found = run(backend, kind, problem)
    assert found["output"].shape == (*problem.tensors["offsets"].shape[:2], 8)
    assert not any(tensor.any() for tensor in found.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [{"heads": 0}, {"channels": 0}, {"points": 0}, {"shapes": ()}], ids=str)
def test_no_head_channel_point_or_level_is_refused(sizes, backend):
    with pytest.raises(ValueError, match="^(value|offsets): expected .* >= 1, got"):
        run(backend, "key_aware_shared", make_problem(**sizes).to(DEVICE))


def test_a_check_looks_at_no_number():
    """On meta there is none: a look at one would raise, and on a GPU wait."""
    problem = make_problem(padded=True)
    points = replace(
        problem.points,
        **{name: problem.tensors[name].to("meta") for name in PER_QUERY},
        valid_sizes=problem.valid_sizes.to("meta"),
    )
    points.check(problem.tensors["value"].to("meta"))
