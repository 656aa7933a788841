"""The deterministic gradients of values and keys: patches of cells, whose samples are added up in a fixed order."""

import os

import numpy as np
import pytest
import torch
from kernel_helpers import attend, make_problem, run

from litedetr.kernels.bench.segment_trips import samples_of_patches, steps_of_patches
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused import backend, deterministic, launch
from litedetr.kernels.fused.launch import Launch, Segments
from litedetr.kernels.fused.patches import PARTS, patches_of, side_of
from litedetr.kernels.fused.sizes import Sizes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT = 1e-11  # as in test_fused.py
MANY, FEW = 10**6, 1  # samples that a patch may hold on average: it has three cells a side, or one
SHAPES = ((5, 8), (1, 1), (0, 2), (3, 2))


@pytest.fixture(autouse=True)
def poisoned_memory():
    """As in test_fused.py."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def launched(monkeypatch, segments):
    monkeypatch.setattr(launch, "rule", lambda shape: segments if shape.pass_name == "segments" else Launch(8, 1))


def assert_tables_equal(problem, kind="key_aware_shared", atol=EXACT):
    expected = run("reference", kind, problem)
    found = run("triton", kind, problem.to(DEVICE), deterministic=True)
    for name in {"value", "key"} & expected.keys():
        torch.testing.assert_close(found[name].cpu(), expected[name], atol=atol, rtol=0)


def sizes_of(shapes, queries=1, points=1):
    tokens = sum(h * w for h, w in shapes)
    return Sizes(
        "deformable", torch.float32, torch.device("cpu"), 1, queries, 1, 4, len(shapes), points, tokens,
        False, False, shapes, None, "bilinear",
    )  # fmt: skip


def pixels_of(patches, quad, part):
    """Tokens of a patch."""
    top, left, side, _, height, width, first_token, _ = patches.quads[quad].tolist()
    rows, columns = (start + offset * side for start, offset in ((top, part // 2), (left, part % 2)))
    return [
        first_token + row * width + column
        for row in range(rows, rows + side + 1)
        for column in range(columns, columns + side + 1)
        if 0 <= row < height and 0 <= column < width
    ]


@pytest.mark.parametrize("most", [FEW, 4, MANY])
def test_patches_of_a_part_share_no_pixel_and_all_parts_hold_every_pixel(most):
    patches = patches_of(sizes_of(SHAPES), most)
    found = set()
    for part in range(PARTS):
        tokens = [token for quad in range(patches.num_quads) for token in pixels_of(patches, quad, part)]
        assert len(set(tokens)) == len(tokens)
        found |= set(tokens)
    assert found == set(range(sum(h * w for h, w in SHAPES)))


def test_the_coarsest_level_has_the_first_quads():
    patches = patches_of(sizes_of(((4, 8), (2, 2))), MANY)
    assert patches.levels.tolist() == [[1, 2, 3], [0, 1, 3]]
    assert patches.quads.tolist() == [
        [-1, -1, 3, 1, 2, 2, 32, 0],
        [-1, -1, 3, 0, 4, 8, 0, 0],
        [-1, 5, 3, 0, 4, 8, 0, 0],
    ]


@pytest.mark.parametrize(("samples", "side"), [(0, 3), (350, 3), (360, 2), (800, 2), (801, 1), (9000, 1)])
def test_a_patch_has_fewer_cells_where_they_hold_more_samples(samples, side):
    """At most 32 samples, of a level of 100 cells."""
    assert side_of(100, samples, 32) == side


def test_samples_are_counted_where_the_kernel_sends_them(monkeypatch):
    """Those outside are in no patch. A program takes two samples at a time."""
    work = Workload("deformable", torch.float32, (0, 2), shapes=((5, 8), (3, 2)), batch=2, heads=2, channels=4)
    segments, found = Segments(2, 1, 14), []
    launched(monkeypatch, segments)
    monkeypatch.setattr(backend, "add_up", lambda call, segments, samples, *_: found.append(samples))
    inputs = work.inputs(DEVICE)
    fused = backend.FusedBackend()
    saved = fused.forward(inputs, True)
    fused.backward(inputs, saved, torch.zeros_like(saved.out), True, False)
    patches = patches_of(Sizes.of(work.inputs("cpu")), segments.patch_samples)
    assert sorted(set(patches.levels[:, 2].tolist())) == [1, 2]  # cells of a side
    programs = work.heads * patches.num_quads * PARTS  # of an image
    sent = [image[image >= 0] for image in found[0].patch.cpu().flatten(1).long()]
    assert all(len(image) < work.queries * 2 * 2 * 4 for image in sent)
    counts = torch.cat([torch.bincount(image, minlength=programs) for image in sent])
    assert torch.equal(samples_of_patches(work.inputs("cpu").points, patches), counts)
    assert torch.equal(steps_of_patches(work, segments), torch.tensor([-(-n // 2) for n in counts.tolist()]))


@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
@pytest.mark.parametrize("most", [FEW, 3, MANY])
def test_patches_of_any_side(most, kind, monkeypatch):
    """Of one to three cells, in several images with padding, with pixels of one, two and four patches."""
    launched(monkeypatch, Segments(8, 1, most))
    assert_tables_equal(make_problem(shapes=SHAPES, queries=8, points=2, padded=True, heads=1), kind)


@pytest.mark.parametrize("samples", [2, 8])
def test_long_patches_beside_empty_ones(samples, monkeypatch):
    """All samples lie in one cell, and are no whole number of steps."""
    launched(monkeypatch, Segments(samples, 1, FEW))
    problem = make_problem(shapes=((4, 3),), queries=13, batch=1)
    with torch.no_grad():
        problem.tensors["reference"].fill_(0.5)
        problem.tensors["offsets"].mul_(0.01)
    assert_tables_equal(problem)


@pytest.mark.parametrize(("most16", "most32"), [(0, 2**31 - 1), (0, 0)], ids=["int32", "int64"])
def test_wider_integers_give_the_same(most16, most32, monkeypatch):
    """Of patches, which are many; and of offsets within an image."""
    monkeypatch.setattr(deterministic, "MOST_INT16", most16)
    monkeypatch.setattr(deterministic, "MOST_INT32", most32)
    launched(monkeypatch, Segments(16, 1))
    assert_tables_equal(make_problem(shapes=((3, 3),)))


@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
def test_a_gradient_that_is_not_finite_spoils_the_pixels_of_its_samples_only(kind, monkeypatch):
    """They share patches with others; the reference spoils the same pixels."""
    launched(monkeypatch, Segments(16, 1, MANY))
    found = {}
    for way, options in (("reference", {}), ("triton", {"deterministic": True})):
        problem = make_problem(shapes=((6, 6),), queries=4, points=1).to(DEVICE if way == "triton" else "cpu")
        with torch.no_grad():  # inside, most of them in one patch
            problem.tensors["reference"].clamp_(0.2, 0.6)
            problem.tensors["offsets"].mul_(0.2)
        out = attend(kind, problem, way, **options)
        gradient = torch.ones_like(out)
        gradient[0, 1, 0] = float("inf")
        out.backward(gradient)
        found[way] = [problem.tensors[name].grad for name in ("value", "key") if kind == "key_aware" or name == "value"]
    for actual, expected in zip(found["triton"], found["reference"], strict=True):
        assert torch.equal(actual.cpu().isfinite().all(-1), expected.isfinite().all(-1))
        sound = expected.isfinite().all(-1)
        assert not sound.all()
        assert sound.any()
        torch.testing.assert_close(actual.cpu()[sound], expected[sound], atol=EXACT, rtol=0)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are compiled, not interpreted")
def test_programs_of_a_launch_write_to_different_places(monkeypatch):
    """Else the result would depend on their order, which the interpreter keeps and a GPU does not."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    launches, begin = [], interpreter.GridExecutor.__call__
    store = interpreter.InterpreterBuilder.create_masked_store

    def launch_kernel(self, *arguments, **constants):
        launches.append([])
        return begin(self, *arguments, **constants)

    def watched(self, pointers, value, mask, *rest):
        launches[-1].append(pointers.data[mask.data])
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch_kernel)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", watched)
    launched(monkeypatch, Segments(16, 1, FEW))
    run("triton", "deformable", make_problem(shapes=((2, 3),), batch=1, heads=1), deterministic=True)
    for addresses in map(np.concatenate, launches[-PARTS:]):
        assert len(np.unique(addresses)) == len(addresses) > 0


def test_a_value_that_is_not_finite_spoils_the_gradient_of_keys_of_their_own_only(monkeypatch):
    """Attention weights do not depend on it, but the gradient of the scores does."""
    launched(monkeypatch, Segments(16, 1, MANY))
    problem = make_problem(shapes=((6, 6),), queries=4, points=2)
    with torch.no_grad():
        problem.tensors["reference"].clamp_(0.2, 0.6)
        problem.tensors["offsets"].mul_(0.2)
        problem.tensors["value"][0, 14:16, 0] = float("nan")
    expected = run("reference", "key_aware", problem)
    found = run("triton", "key_aware", problem.to(DEVICE), deterministic=True)
    assert not expected["key"].isfinite().all()
    assert expected["value"].isfinite().all()
    for name in ("key", "value"):
        torch.testing.assert_close(found[name].cpu(), expected[name], atol=EXACT, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "name", "place", "number"),
    [
        ("deformable", "logits", (0, 0), float("nan")),
        ("key_aware_shared", "query", (0, 0), float("nan")),
        ("key_aware", "query", (0, 0), float("nan")),
        ("key_aware", "value", (0, slice(7, 9)), -float("inf")),
        ("key_aware", "value", (0, 0), float("nan")),
        ("key_aware_shared", "value", (0, 0), 1e308),  # d_score overflows, p does not
    ],
)
def test_what_is_not_finite_in_one_of_several_steps(kind, name, place, number, monkeypatch):
    """Of a patch: the pixels of the other samples keep their sums. Only the first query samples pixel 0."""
    launched(monkeypatch, Segments(2, 1, MANY))
    problem = make_problem(shapes=((6, 6),), batch=1, heads=1, queries=4, points=2)
    with torch.no_grad():
        problem.tensors["reference"].clamp_(0.25, 0.4)[0, 0] = 0.12
        problem.tensors["offsets"].mul_(0.1)
        problem.tensors[name][place] = number
    expected = run("reference", kind, problem)
    found = run("triton", kind, problem.to(DEVICE), deterministic=True)
    tables = {"value", "key"} & expected.keys()
    assert any(0 < expected[table].isfinite().sum() < expected[table].numel() for table in tables)
    for table in tables:
        is_number = expected[table].isfinite()
        assert torch.equal(found[table].cpu().isfinite(), is_number)
        torch.testing.assert_close(found[table].cpu()[is_number], expected[table][is_number], atol=EXACT, rtol=0)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 2e-6), (torch.bfloat16, 3e-4)], ids=str)
def test_sums_of_halves_before_they_are_rounded(dtype, most, monkeypatch):
    """Weights of half precision lose nothing for float16, and one bit in 2^11 for bfloat16. Relative RMS."""
    sums, add_up = [], backend.add_up

    def watched(*arguments):
        add_up(*arguments)
        sums.append(arguments[-1].value.double().cpu())

    monkeypatch.setattr(backend, "add_up", watched)
    launched(monkeypatch, Segments(32, 1))
    problem = make_problem(queries=20, channels=16, points=4, dtype=torch.float32).cast(dtype)
    expected = run("reference", "deformable", problem.cast(torch.float64))["value"]
    run("triton", "deformable", problem.to(DEVICE), deterministic=True)
    assert (sums[0] - expected).square().mean().sqrt() < most * expected.square().mean().sqrt()
