"""What an attention says of where it samples and by what it weights the samples."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from litedetr.models.attention import MultiScaleAttention
from litedetr.models.detector_config import AttentionConfig
from litedetr.structures import FeaturePyramid

SHAPES = ((6, 5), (3, 2))
VALID = torch.tensor([[[6, 5], [3, 2]], [[4, 3], [2, 1]]])
BATCH, QUERIES, CHANNELS, HEADS, POINTS = 2, 7, 8, 2, 3


@dataclass
class Call:
    """An attention with random weights everywhere, and arguments for it."""

    attention: MultiScaleAttention
    query: torch.Tensor
    reference: torch.Tensor
    memory: FeaturePyramid

    @property
    def arguments(self) -> tuple:
        return self.query, self.reference, self.memory


@pytest.fixture(params=["deformable", "key_aware", "key_aware_shared"])
def kind(request) -> str:
    return request.param


@pytest.fixture(params=[2, 4], ids=["points", "boxes"])
def call(request, kind: str) -> Call:
    return make_call(kind, request.param)


def make_call(kind: str, reference_size: int, sampling: str = "bilinear") -> Call:
    """Locations reach outside the levels, and the second image is padded."""
    torch.manual_seed(0)
    config = AttentionConfig(num_heads=HEADS, num_points=POINTS, sampling=sampling)
    attention = MultiScaleAttention(kind, CHANNELS, 2, config).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randn(BATCH, sum(h * w for h, w in SHAPES), CHANNELS, dtype=torch.float64)
    ratios = VALID.flip(-1) / torch.tensor([(w, h) for h, w in SHAPES])
    memory = FeaturePyramid(tokens, tokens, VALID, ratios, None, SHAPES)
    reference = torch.rand(BATCH, QUERIES, 2, reference_size, dtype=torch.float64)
    return Call(attention, torch.randn(BATCH, QUERIES, CHANNELS, dtype=torch.float64), reference, memory)


def value_maps(call: Call) -> list[torch.Tensor]:
    """(B, M, D, H, W) for each level, zero on padding."""
    value = call.attention.value_proj(call.memory.tokens).split([h * w for h, w in SHAPES], dim=1)
    maps = []
    for level, ((h, w), flat) in enumerate(zip(SHAPES, value, strict=True)):
        full = flat.view(BATCH, h, w, HEADS, -1).permute(0, 3, 4, 1, 2).clone()
        for image, (valid_h, valid_w) in enumerate(VALID[:, level].tolist()):
            full[image, ..., valid_h:, :] = 0
            full[image, ..., valid_w:] = 0
        maps.append(full)
    return maps


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("reference_size", [2, 4], ids=["points", "boxes"])
def test_weights_times_sampled_values_are_the_attentions_output(kind: str, reference_size: int, sampling: str):
    """Values sampled at the locations by PyTorch's own sampler, another implementation than ours: with nearest sampling
    these are centres of pixels.
    """
    call = make_call(kind, reference_size, sampling)
    with torch.no_grad():
        sampled = call.attention.sampled(*call.arguments)
        total = 0
        for level, full in enumerate(value_maps(call)):
            grid = 2 * sampled.locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (B * M, Q, P, 2)
            samples = F.grid_sample(full.flatten(0, 1), grid, sampling, align_corners=False)
            samples = samples.unflatten(0, (BATCH, HEADS))
            weights = sampled.weights[:, :, :, level].transpose(1, 2).unsqueeze(2)  # (B, M, 1, Q, P)
            total = total + (samples * weights).sum(-1)  # (B, M, D, Q)
        expected = call.attention.output_proj(total.permute(0, 3, 1, 2).flatten(2))
        torch.testing.assert_close(call.attention(*call.arguments), expected, atol=1e-6, rtol=0)


def test_weights_sum_to_one_for_each_query_and_head(call: Call):
    weights = call.attention.sampled(*call.arguments).weights
    assert weights.shape == (BATCH, QUERIES, HEADS, 2, POINTS)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(BATCH, QUERIES, HEADS, dtype=torch.float64))


def test_a_location_is_reference_plus_offset(call: Call):
    locations = call.attention.sampled(*call.arguments).locations
    offsets = call.attention.sampling_offsets(call.query).view(BATCH, QUERIES, HEADS, 2, POINTS, 2)
    b, q, m, level, p = 1, 4, 1, 0, 2
    height, width = SHAPES[level]
    x, y, *size = call.reference[b, q, level].tolist()
    dx, dy = offsets[b, q, m, level, p].tolist()
    if size:
        expected = (x + dx / POINTS * size[0] / 2, y + dy / POINTS * size[1] / 2)
    else:
        expected = (x + dx / width, y + dy / height)
    assert locations.shape == (BATCH, QUERIES, HEADS, 2, POINTS, 2)
    assert locations[b, q, m, level, p].tolist() == pytest.approx(expected, abs=1e-12)


def test_nearest_sampling_leaves_the_offsets_as_they_are(kind: str):
    """They have no gradient, and weight decay would shrink them."""
    attention = make_call(kind, 2, "nearest").attention
    frozen = {name for name, parameter in attention.named_parameters() if not parameter.requires_grad}
    assert frozen == {"sampling_offsets.weight", "sampling_offsets.bias"}
    assert all(parameter.requires_grad for parameter in make_call(kind, 2).attention.parameters())
