"""What the seam promises: routing and errors that name the argument."""

from dataclasses import replace

import pytest
import torch
from kernel_helpers import make_problem, run

from litedetr.kernels.functional import deformable_attention, key_aware_attention


def attend(problem, points=None, **changes):
    t = problem.tensors | changes
    return key_aware_attention(t["query"], t["value"], points or problem.points, backend=t.get("backend", "auto"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("query", lambda x: x[:, :, :, :-1]),
        ("value", lambda x: x[:, :-1]),
        ("value", lambda x: x[0]),
    ],
)
def test_wrong_shapes_are_named(name, change):
    problem = make_problem()
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        attend(problem, **{name: change(problem.tensors[name])})


@pytest.mark.parametrize("name", ["reference", "offsets"])
def test_wrong_points_are_named(name):
    problem = make_problem()
    points = replace(problem.points, **{name: getattr(problem.points, name)[..., :1]})
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        attend(problem, points)


def test_wrong_logits_are_named():
    problem = make_problem()
    with pytest.raises(ValueError, match="^logits: expected"):
        deformable_attention(problem.tensors["value"], problem.tensors["logits"][..., 1:], problem.points)


def test_wrong_key_is_named():
    problem = make_problem()
    t = problem.tensors
    with pytest.raises(ValueError, match="^key: expected"):
        key_aware_attention(t["query"], t["value"], problem.points, key=t["key"][:, 1:])


def test_float_valid_sizes_are_refused():
    points = replace(make_problem(padded=True).points, valid_sizes=torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="^valid_sizes: expected int"):
        attend(make_problem(padded=True), points)


@pytest.mark.parametrize("given", ["false", 2, 1.5, [True]])
def test_deterministic_is_a_bool_or_none(given):
    t, points = make_problem().tensors, make_problem().points
    with pytest.raises(ValueError, match="^deterministic: expected True, False or None, got "):
        key_aware_attention(t["query"], t["value"], points, deterministic=given)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="^backend: expected one of"):
        attend(make_problem(), backend="cuda")


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_backends_agree(backend):
    problem = make_problem(boxes=True, padded=True)
    torch.testing.assert_close(attend(problem, backend=backend), attend(problem), atol=1e-11, rtol=0)


def test_meta_tensors_give_shapes():
    problem = make_problem()
    on_meta = problem.tensors | {name: x.to("meta") for name, x in problem.tensors.items() if torch.is_tensor(x)}
    points = replace(problem.points, reference=on_meta["reference"], offsets=on_meta["offsets"], valid_sizes=None)
    out = key_aware_attention(on_meta["query"], on_meta["value"], points)
    assert out.is_meta
    assert out.shape == attend(problem).shape


def test_without_triton_its_backend_is_refused_and_the_rest_works(monkeypatch):
    monkeypatch.setattr("litedetr.kernels.functional.HAS_TRITON", False)
    problem = make_problem()
    with pytest.raises(ValueError, match="needs the package triton"):
        attend(problem, backend="triton")
    torch.testing.assert_close(attend(problem), attend(problem, backend="reference"), atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_valid_sizes_beyond_the_level_are_the_level(backend, kind):
    """Neither another level nor another row is read, and a negative size is no size at all."""
    expected, lying = run(backend, kind, make_problem()), make_problem()
    lying.valid_sizes = torch.full((2, 2, 2), 1000)
    for name, tensor in run(backend, kind, lying).items():
        torch.testing.assert_close(tensor, expected[name])
    lying.valid_sizes = torch.full((2, 2, 2), -1)
    assert not run(backend, kind, lying)["output"].any()
