"""Nearest sampling as compilers, exporters and counters see it."""

from dataclasses import replace

import pytest
import torch
from kernel_helpers import NEAREST_OPERATORS, Problem, attend, make_problem, run
from test_registration import inputs_of
from torch.utils.flop_counter import FlopCounterMode

from litedetr.kernels import plain
from litedetr.kernels.functional import deformable_attention
from litedetr.kernels.points import SamplingPoints
from litedetr.kernels.registration import _flatten

pytestmark = pytest.mark.usefixtures("few_programs")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", NEAREST_OPERATORS)
def test_operators_and_plain_calls_give_the_same_bits(backend, kind, monkeypatch):
    problem = make_problem(padded=True, sampling="nearest").to(DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(plain, "is_watched", lambda: False)
        expected = run(backend, kind, problem, deterministic=True)
    monkeypatch.setattr(plain, "is_watched", lambda: True)
    found = run(backend, kind, problem, deterministic=True)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("backend", NEAREST_OPERATORS)
@pytest.mark.parametrize(("kind", "per_sample"), [("deformable", 1), ("key_aware_shared", 2), ("key_aware", 2)])
def test_a_sample_costs_no_flops(backend, kind, per_sample):
    """Multiply-adds a sample and channel: one for q . k, one for the weighted sum. The forward pass is a plain call, so
    that the backward pass's operator is told the sampling by what that one saved.
    """
    problem = make_problem(sampling="nearest").to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        attend(kind, problem, backend)
    total = 2 * per_sample * problem.tensors["value"].shape[-1] * problem.tensors["offsets"].numel() // 2
    assert counter.get_total_flops() == total
    out = attend(kind, problem, backend)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 3 * total
    assert not problem.tensors["offsets"].grad.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", NEAREST_OPERATORS)
def test_opcheck(backend, kind):
    problem = make_problem(shapes=((3, 2), (2, 2)), queries=2, points=2, sampling="nearest").to(DEVICE)
    operator = torch.ops.litedetr.attention_cpu if backend == "auto" else torch.ops.litedetr.attention_fused
    torch.library.opcheck(operator, (*_flatten(inputs_of(kind, problem)), False))


def of_tensors(problem: Problem, backend: str):
    """Shared keys as a function of queries, values and offsets."""

    def function(query, value, offsets):
        tensors = {**problem.tensors, "query": query, "value": value, "offsets": offsets}
        return attend("key_aware_shared", replace(problem, tensors=tensors), backend)

    return function, [problem.tensors[name].detach() for name in ("query", "value", "offsets")]


@pytest.mark.parametrize("backend", [*NEAREST_OPERATORS, "reference"])
def test_compiles_to_one_graph(backend):
    function, given = of_tensors(make_problem(padded=True, sampling="nearest").to(DEVICE), backend)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for step in (function, compiled):
        leaves = [x.clone().requires_grad_() for x in given]
        out = step(*leaves)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[1], results[0], atol=1e-11, rtol=0)


class Attention(torch.nn.Module):
    """Of maps (B, 8, H, W), given logits, references (B, Q, 1, 2) and offsets (B, Q, 2, 1, 3, 2)."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, maps, centres, offsets):
        value = maps.flatten(2).transpose(1, 2).unflatten(-1, (2, -1))
        points = SamplingPoints(centres, offsets, (tuple(maps.shape[-2:]),), sampling="nearest")
        return deformable_attention(value, offsets[..., 0, :, 0], points, self.backend)


def arguments(batch: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(batch, 8, height, width), torch.rand(batch, 5, 1, 2), 3 * torch.randn(batch, 5, 2, 1, 3, 2)


def exported(backend: str) -> torch.export.ExportedProgram:
    """For any number and size of images."""
    batch = torch.export.Dim("batch", min=1, max=64)  # torch 2.6 wants an end
    sizes = {0: batch, 2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    given = arguments(2, 4, 6)
    return torch.export.export(Attention(backend), given, dynamic_shapes=(sizes, {0: batch}, {0: batch}), strict=False)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_exports(backend):
    program = exported(backend)
    for size in [(1, 9, 5), (3, 2, 2)]:
        given = arguments(*size)
        torch.testing.assert_close(program.module()(*given), Attention(backend)(*given))


def test_onnx_reads_one_pixel(tmp_path):
    """One gather of samples, where bilinear sampling has four, and the same numbers as in PyTorch."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="an optional extra")
    program = torch.onnx.export(exported("reference"), dynamo=True, verbose=False)
    program.save(tmp_path / "nearest.onnx")
    gathers = [node for node in program.model.graph if node.op_type.startswith("Gather")]
    assert len([node for node in gathers if len(node.outputs[0].shape) == 6]) == 1  # (B, Q, M, L, P, D)
    session = onnxruntime.InferenceSession(tmp_path / "nearest.onnx")
    names = [node.name for node in session.get_inputs()]
    for size in [(1, 9, 5), (3, 2, 2), (2, 4, 6)]:
        given = arguments(*size)
        (found,) = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
        torch.testing.assert_close(torch.from_numpy(found), Attention("reference")(*given))
