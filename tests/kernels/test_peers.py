"""What the benchmark compares with, and how it measures."""

import os
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch
from kernel_helpers import make_problem

from litedetr.kernels import constants, reference
from litedetr.kernels.bench import peers
from litedetr.kernels.bench.accuracy import reference_results, relative_error, worst_error
from litedetr.kernels.bench.ceilings import Ceilings, floor_milliseconds
from litedetr.kernels.bench.side_by_side import (
    _without_kineto_log,
    forward_step,
    side_by_side,
    training_step,
)
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.inputs import Inputs

SCORES = ["deformable", "key_aware_shared", "key_aware"]
CPU = torch.device("cpu")


def inputs_of(score, **case) -> Inputs:
    problem = make_problem(**case)
    t = problem.tensors
    query, logits = (None, t["logits"]) if score == "deformable" else (t["query"], None)
    return Inputs(query, t["key"] if score == "key_aware" else None, t["value"], logits, problem.points)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_unfused_is_the_same_attention(score, boxes, sampling):
    inputs = inputs_of(score, boxes=boxes, sampling=sampling)
    grad = torch.randn(inputs.points.offsets.shape[:3] + inputs.value.shape[3:], dtype=torch.float64)
    found = training_step(peers.unfused, inputs, grad.flatten(2))()
    expected = reference_results(inputs, grad)
    assert set(found) == set(expected)
    assert worst_error(found, expected) < 1e-12


def test_results_are_the_same_in_slices(monkeypatch):
    inputs = inputs_of("key_aware", queries=7)
    grad = torch.randn(2, 7, 2, 4, dtype=torch.float64)
    whole = reference_results(inputs, grad)
    monkeypatch.setattr("litedetr.kernels.bench.accuracy.REFERENCE_QUERIES", 3)
    for name, tensor in reference_results(inputs, grad).items():
        torch.testing.assert_close(tensor, whole[name])
    torch.testing.assert_close(whole["out"].flatten(2), reference.attend(inputs))


def test_what_is_not_finite_is_infinitely_wrong():
    right = torch.ones(3)
    assert relative_error(torch.tensor([1.0, 1.0, float("nan")]), right) == float("inf")
    assert relative_error(2 * right, right) == 1.0
    assert relative_error(0 * right, 0 * right) == 0.0
    assert relative_error(right, 0 * right) == float("inf")


def test_peers_that_cannot_take_a_call_say_why():
    assert peers.obstacle("unfused", inputs_of("key_aware_shared")) is None
    assert peers.obstacle("deformops", inputs_of("key_aware_shared")) is not None


def test_constants_of_peers_are_copied_once():
    """On a GPU the host would wait for each copy, and no graph could hold the call."""
    inputs = inputs_of("key_aware_shared")
    constants._kept.cache_clear()
    for _ in range(3):
        peers.unfused(inputs)
    assert (constants._kept.cache_info().misses, constants._kept.cache_info().hits) == (2, 4)  # and of their locations


def test_the_compiled_reference_is_compiled_for_every_shape(monkeypatch):
    """PyTorch would go on without compiling after eight."""
    programs = []
    keep = partial(torch.compile, backend=lambda graph, _: programs.append(graph) or graph.forward)
    monkeypatch.setattr(torch, "compile", keep)
    peers._compiled_reference.cache_clear()
    try:
        with torch._dynamo.config.patch(cache_size_limit=8):
            for queries in range(2, 12):
                inputs = inputs_of("key_aware_shared", queries=queries)
                torch.testing.assert_close(peers.compiled(inputs), reference.attend(inputs))
    finally:
        peers._compiled_reference.cache_clear()
        torch._dynamo.reset()
    assert len(programs) == 10


def test_deformops_adds_gradients_as_it_comes_and_in_fp32(monkeypatch):
    calls = []
    registry = ModuleType("deformops.registry")
    registry.Backend = SimpleNamespace(TRITON="triton")
    registry.msda = lambda *arguments, **options: calls.append((arguments, options))
    monkeypatch.setitem(sys.modules, "deformops", ModuleType("deformops"))
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)
    monkeypatch.setattr(peers, "find_spec", lambda name: True)
    inputs = inputs_of("deformable")
    peers.deformops(inputs)
    peers.deformops_fp32(inputs)
    (default, by_default), (fp32, in_fp32) = calls
    assert by_default == {"method": "softmax"}
    assert in_fp32 == {"method": "softmax", "backend": "triton", "fp32acc": True}
    assert default[1] is fp32[1]  # the shapes, kept
    assert default[2] is fp32[2]  # where levels start
    assert default[1].tolist() == [list(shape) for shape in inputs.points.shapes]
    half = inputs.map(lambda x: x.to(torch.bfloat16))
    assert peers.obstacle("deformops_fp32", half) is None
    assert "single precision" in peers.obstacle("deformops_fp32", inputs)
    assert "key-aware" in peers.obstacle("deformops_fp32", inputs_of("key_aware_shared"))


def test_turns_are_medians_of_the_rounds_after_the_first(monkeypatch):
    calls = []

    def step():
        calls.append(1)
        first = torch.zeros(1 << 18)  # 1 MiB, then 3 more; free before the last
        second = torch.zeros(3 << 18)
        del first, second
        torch.zeros(1 << 18)

    clock = iter([0, 1, 0, 3, 0, 2])  # 1, 3 and 2 s
    monkeypatch.setattr("litedetr.kernels.bench.side_by_side.time.perf_counter", lambda: next(clock))
    timing = side_by_side({"x": step}, CPU, rounds=3)["x"]
    assert timing.milliseconds == 2000
    assert timing.peak_mib == 4
    assert len(calls) == 4  # the first warms up


def test_what_the_profiler_notes_is_left_out_and_nothing_else(capfd: pytest.CaptureFixture[str]):
    side_by_side({"x": lambda: os.write(2, b"of the step\n")}, CPU, rounds=1)
    assert capfd.readouterr().err == 2 * "of the step\n"
    with _without_kineto_log():
        os.write(2, b"USDT:2026 profiler_start\nan error\nSTAGE:2026 done\n")
    assert capfd.readouterr().err == "an error\n"


def test_forward_steps_keep_no_graph():
    inputs = inputs_of("key_aware_shared")
    assert not forward_step(reference.attend, inputs)().requires_grad


def test_the_floor_grows_with_the_bytes():
    ceilings = Ceilings(bandwidth=1e9, l1=None)
    small, large = (
        Workload("key_aware_shared", torch.float32, (1, 2), shapes=((4, 4), (2, 2)), batch=batch).inputs("meta")
        for batch in (1, 2)
    )
    floor = floor_milliseconds(small, False, ceilings)
    # query and output 4 x 8 x 32, values 20 x 8 x 32, offsets 4 x 8 x 2 x 4 x 2, references 4 x 2 x 2, in fp32
    assert floor == pytest.approx(4 * (2 * 1024 + 5120 + 512 + 16) / 1e9 * 1e3)
    assert floor_milliseconds(large, False, ceilings) == pytest.approx(2 * floor)
    assert floor_milliseconds(small, True, ceilings) > 2 * floor
    assert floor_milliseconds(small, False, Ceilings(1e9, 1e3)) > floor  # the caches are the limit


def test_workloads_have_the_sizes_they_say():
    workload = Workload("key_aware", torch.bfloat16, (1, 4), batch=2)
    assert (workload.queries, workload.tokens) == (5523, 22223)
    inputs = workload.inputs("meta")
    inputs.points.check(inputs.value)
    assert inputs.points.reference.dtype == torch.float32
    assert inputs.value.dtype == inputs.points.offsets.dtype == torch.bfloat16
    assert Workload("key_aware_shared", torch.float32, None, num_queries=7).inputs("meta").points.reference.shape == (
        1,
        7,
        4,
        4,
    )
