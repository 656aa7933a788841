"""The oracle against loops that follow the paper's equations one number at a time."""

import math
from itertools import product

import pytest
import torch
from kernel_helpers import make_problem
from torch.autograd import gradcheck, gradgradcheck

from litedetr.kernels import reference
from litedetr.kernels.points import SamplingPoints


def bilinear(image, x, y, valid):
    """image (H, W, D) read at pixel (x, y), whose neighbours count if they lie in the valid (height, width)."""
    total = torch.zeros(image.shape[-1], dtype=image.dtype)
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= column < valid[1] and 0 <= row < valid[0]:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return total


def nearest(image, x, y, valid):
    """image (H, W, D) read at the pixel that is nearest to (x, y), zero if that is not in the valid (height, width)."""
    column, row = math.floor(x + 0.5), math.floor(y + 0.5)
    if 0 <= column < valid[1] and 0 <= row < valid[0]:
        return image[row, column]
    return torch.zeros(image.shape[-1], dtype=image.dtype)


SAMPLERS = {"bilinear": bilinear, "nearest": nearest}


def location(problem, b, q, m, level, p):
    """(x, y) in pixels, from the definitions of SamplingPoints."""
    height, width = problem.shapes[level]
    reference_point = problem.tensors["reference"][b, q, level].tolist()
    dx, dy = problem.tensors["offsets"][b, q, m, level, p].tolist()
    if len(reference_point) == 2:
        x, y = reference_point
        return x * width + dx - 0.5, y * height + dy - 0.5
    num_points = problem.tensors["offsets"].shape[-2]
    x, y, w, h = reference_point
    return (x + dx / num_points * w / 2) * width - 0.5, (y + dy / num_points * h / 2) * height - 0.5


def sample_by_loop(problem, table, b, q, m):
    """(L * P, D) samples of one query head."""
    samples, start = [], 0
    for level, (height, width) in enumerate(problem.shapes):
        image = table[b, start : start + height * width, m].reshape(height, width, table.shape[-1])
        valid = (height, width) if problem.valid_sizes is None else problem.valid_sizes[b, level].tolist()
        for p in range(problem.tensors["offsets"].shape[-2]):
            samples.append(SAMPLERS[problem.sampling](image, *location(problem, b, q, m, level, p), valid))
        start += height * width
    return torch.stack(samples)


def attend_by_loop(problem, score):
    """score(b, q, m) -> (L * P,) logits; returns (B, Q, M * D)."""
    value = problem.tensors["value"].detach()
    batch, queries, heads = problem.tensors["offsets"].shape[:3]
    out = torch.zeros(batch, queries, heads, value.shape[-1], dtype=value.dtype)
    for b, q, m in product(range(batch), range(queries), range(heads)):
        weights = torch.softmax(score(b, q, m), 0)
        for weight, sample in zip(weights, sample_by_loop(problem, value, b, q, m), strict=True):
            out[b, q, m] += weight * sample
    return out.flatten(2)


def key_aware_score(problem, keys):
    query = problem.tensors["query"].detach()

    def score(b, q, m):
        samples = sample_by_loop(problem, keys.detach(), b, q, m)
        return torch.stack([query[b, q, m] @ k / math.sqrt(len(k)) for k in samples])

    return score


def test_deformable_attention_is_equation_3(problem):
    t = problem.tensors
    out = reference.deformable_attention(t["value"], t["logits"], problem.points)
    expected = attend_by_loop(problem, lambda b, q, m: t["logits"][b, q, m].detach())
    torch.testing.assert_close(out.detach(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shared", [True, False], ids=["shared keys", "own keys"])
def test_key_aware_attention_is_equation_4(problem, shared):
    t = problem.tensors
    key = None if shared else t["key"]
    out = reference.key_aware_attention(t["query"], t["value"], problem.points, key)
    expected = attend_by_loop(problem, key_aware_score(problem, t["value"] if shared else key))
    torch.testing.assert_close(out.detach(), expected, atol=1e-12, rtol=0)


def test_a_sample_outside_keeps_its_share_of_the_softmax():
    """Half of the samples read the constant 3 with logit 0 too (query 0): the output is the mean, 1.5, not 3."""
    value = torch.full((1, 4, 1, 2), 3.0)
    offsets = torch.tensor([[0.0, 0.0], [100.0, 0.0]]).view(1, 1, 1, 1, 2, 2)
    points = SamplingPoints(torch.full((1, 1, 1, 2), 0.5), offsets, ((2, 2),))
    out = reference.key_aware_attention(torch.zeros(1, 1, 1, 2), value, points)
    torch.testing.assert_close(out, torch.full((1, 1, 2), 1.5))


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck], ids=["first", "second"])
@pytest.mark.parametrize("kind", ["deformable", "key_aware_shared", "key_aware"])
def test_derivatives_match_finite_differences(kind, check, boxes):
    problem = make_problem(shapes=((3, 2), (2, 2)), batch=1, queries=2, channels=2, points=2, boxes=boxes, padded=True)
    names = {
        "deformable": ["value", "logits"],
        "key_aware_shared": ["query", "value"],
        "key_aware": ["query", "value", "key"],
    }[kind]

    def attend(reference_points, offsets, *inputs):
        points = SamplingPoints(reference_points, offsets, problem.shapes, problem.valid_sizes)
        if kind == "deformable":
            return reference.deformable_attention(*inputs, points)
        return reference.key_aware_attention(inputs[0], inputs[1], points, *inputs[2:])

    inputs = [problem.tensors[name] for name in ("reference", "offsets", *names)]
    assert check(attend, inputs)


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
def test_exports_for_any_number_and_size_of_images(boxes):
    class Attention(torch.nn.Module):
        def forward(self, maps, centres, offsets):
            height, width = maps.shape[-2:]
            value = maps.flatten(2).transpose(1, 2).unflatten(-1, (2, -1))
            points = SamplingPoints(centres, offsets, ((height, width),))
            return reference.key_aware_attention(offsets.flatten(3)[..., :4], value, points)

    def arguments(batch, height, width):
        return (
            torch.randn(batch, 8, height, width),
            torch.rand(batch, 5, 1, 4 if boxes else 2),
            3 * torch.randn(batch, 5, 2, 1, 3, 2),
        )

    batch = torch.export.Dim("batch", min=1, max=64)  # torch 2.6 wants an end
    sizes = {0: batch, 2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    program = torch.export.export(
        Attention(), arguments(2, 4, 6), dynamic_shapes=(sizes, {0: batch}, {0: batch}), strict=False
    )
    for size in [(1, 9, 5), (3, 2, 2)]:
        given = arguments(*size)
        torch.testing.assert_close(program.module()(*given), Attention()(*given))
