"""The linear layer, whichever library computes it."""

import pytest
import torch
import torch.nn.functional as F

from litedetr.models.linear import LEAST_WORK, Linear


def grads(layer: torch.nn.Linear, x: torch.Tensor, function) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = function(x)
    return [out, *torch.autograd.grad(out.square().sum(), (x, layer.weight, layer.bias))]


@pytest.mark.parametrize("shape", [(2, 300, 64), (1, 4096, 64), (3, 5, 64), (600, 64), (2, 3, 100, 64), (0, 300, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_output_and_gradients_are_those_of_a_linear_layer(shape, dtype):
    torch.manual_seed(0)
    layer, x = Linear(64, 48).to(dtype), torch.randn(shape).to(dtype)
    expected = grads(layer, x, lambda x: F.linear(x, layer.weight, layer.bias))
    for mine, theirs in zip(grads(layer, x, layer), expected, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


def test_strided_tokens():
    layer, x = Linear(64, 48), torch.randn(2, 900, 64)[:, 100:700]
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)
    assert layer(x).is_contiguous()


@pytest.mark.parametrize(("tokens", "convolved"), [(LEAST_WORK // (64 * 48) + 1, True), (8, False)])
def test_only_large_products_become_convolutions(tokens, convolved):
    layer, x = Linear(64, 48), torch.randn(1, tokens, 64)
    with torch.profiler.profile() as profile:
        layer(x)
    assert ("aten::conv2d" in {event.key for event in profile.key_averages()}) == convolved


def test_a_compiler_sees_a_linear_layer():
    program = torch.export.export(Linear(64, 48), (torch.randn(1, 4096, 64),))
    assert {node.target for node in program.graph.nodes if node.op == "call_function"} == {
        torch.ops.aten.linear.default
    }
