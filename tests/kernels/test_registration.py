"""The attentions as operators of torch.library: what compilers, exporters and counters see."""

import pytest
import torch
from kernel_helpers import attend, make_problem, run
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from litedetr.kernels.inputs import Inputs
from litedetr.kernels.registration import _flatten

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]
BACKENDS = ["auto", "triton"]


def inputs_of(kind, problem) -> Inputs:
    t = problem.tensors
    query, logits = (None, t["logits"]) if kind == "deformable" else (t["query"], None)
    return Inputs(query, t["key"] if kind == "key_aware" else None, t["value"], logits, problem.points)


@pytest.mark.parametrize("operator", ["attention_cpu", "attention_fused"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
def test_opcheck(operator, kind, boxes):
    """Schema, fake tensors and autograd registration, static and dynamic."""
    import litedetr.kernels.fused  # noqa: F401  registers the operator

    device = DEVICE if operator == "attention_fused" else "cpu"
    problem = make_problem(shapes=((3, 2), (2, 2)), boxes=boxes, queries=2, points=2).to(device)
    torch.library.opcheck(getattr(torch.ops.litedetr, operator), (*_flatten(inputs_of(kind, problem)), False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_turned_inputs_lie_as_the_fake_tensors_say(backend):
    """Compilers take the strides for granted."""
    problem = make_problem()
    for name, tensor in problem.tensors.items():
        problem.tensors[name] = tensor.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    problem = problem.to(DEVICE)
    leaves = [tensor for name, tensor in problem.tensors.items() if name != "logits"]
    grads = torch.autograd.grad(attend("key_aware", problem, backend).sum(), leaves)
    assert not any(leaf.is_contiguous() for leaf in leaves)
    assert all(grad.is_contiguous() for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_to_one_graph(backend, dynamic):
    def step(query, value, offsets):
        t = {**problem.tensors, "query": query.sin(), "value": value, "offsets": offsets}
        return attend("key_aware_shared", type(problem)(t, problem.shapes, None), backend).cos()

    problem = make_problem(padded=False).to(DEVICE)
    names = ("query", "value", "offsets")
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (step, compiled):
        leaves = [problem.tensors[name].detach().requires_grad_() for name in names]
        function(*leaves).sum().backward()
        results.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(results[1], results[0], atol=1e-11, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exports(backend):
    class Attention(torch.nn.Module):
        def forward(self, query, value):
            t = {**problem.tensors, "query": query, "value": value}
            return attend("key_aware_shared", type(problem)(t, problem.shapes, None), backend)

    problem = make_problem().to(DEVICE)
    for tensor in problem.tensors.values():
        tensor.requires_grad_(False)
    arguments = problem.tensors["query"], problem.tensors["value"]
    program = torch.export.export(Attention(), arguments, strict=False)
    names = [str(node.target) for node in program.graph.nodes if "litedetr" in str(node.target)]
    assert len(names) == 1
    torch.testing.assert_close(program.module()(*arguments), Attention()(*arguments))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "per_sample"), [("deformable", 5), ("key_aware_shared", 6), ("key_aware", 10)])
def test_flops_are_counted(backend, kind, per_sample):
    """Multiply-adds a sample and channel: four corners a table, one for q . k, one for the weighted sum."""
    problem = make_problem().to(DEVICE)
    with FlopCounterMode(display=False) as counter:
        out = attend(kind, problem, backend)
    channels, samples = problem.tensors["value"].shape[-1], problem.tensors["offsets"].numel() // 2
    assert counter.get_total_flops() == 2 * per_sample * channels * samples
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * per_sample * channels * samples


@pytest.mark.parametrize("backend", BACKENDS)
def test_activation_checkpointing(backend):
    expected = run(backend, "key_aware_shared", make_problem().to(DEVICE), deterministic=True)
    problem = make_problem().to(DEVICE)
    out = checkpoint(attend, "key_aware_shared", problem, backend, deterministic=True, use_reentrant=False)
    grad = torch.linspace(-1, 1, out.numel()).bfloat16().to(out.device, out.dtype).view_as(out)
    out.backward(grad)
    for name, tensor in problem.tensors.items():
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad, expected[name], atol=0, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivative_is_refused(backend):
    problem = make_problem().to(DEVICE)
    out = attend("key_aware_shared", problem, backend)
    (grad,) = torch.autograd.grad(out.sum(), problem.tensors["query"], create_graph=True)
    with pytest.raises(RuntimeError, match="use backend='reference' for second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_lowers_queries_and_values_but_not_the_points(backend):
    problem = make_problem(dtype=torch.float32).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        out = attend("key_aware_shared", problem, backend)
    low = problem.cast(torch.bfloat16)
    low.tensors["offsets"] = problem.tensors["offsets"]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, attend("key_aware_shared", low, backend), atol=0, rtol=0)


def test_autocast_leaves_double_precision_alone():
    problem = make_problem()
    with torch.autocast("cpu", torch.bfloat16):
        assert attend("key_aware_shared", problem, "auto").dtype == torch.float64
