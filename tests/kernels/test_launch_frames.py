"""How many of our functions lie between the detector's attention and the launch of its kernel."""

import sys
import traceback
from pathlib import Path

import pytest
import torch

from litedetr.kernels.fused.forward import forward_kernel
from litedetr.models.attention import MultiScaleAttention
from litedetr.models.detector_config import AttentionConfig
from litedetr.structures import FeaturePyramid

pytestmark = pytest.mark.usefixtures("both_paths")

ROOT = Path(__file__).resolve().parents[2]
OURS = (ROOT / "kernels", ROOT / "litedetr")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["deformable", "key_aware_shared", "key_aware"]
MOST = 6
FIRST, LAST = "litedetr/models/attention.py forward", "kernels/fused/call.py launch_kernel"


@pytest.fixture
def launches(monkeypatch) -> list[list[str]]:
    """Grows by one for each launch: which functions of ours called one another up to it."""
    found, kind = [], type(forward_kernel)
    right = kind.__getitem__

    def recorded(kernel, grid):
        found.append(our_functions(sys._getframe(1)))
        return right(kernel, grid)

    monkeypatch.setattr(kind, "__getitem__", recorded)
    return found


def our_functions(last) -> list[str]:
    """Files and names of the functions of this repository on the stack, up to the frame `last`."""
    frames = [(Path(frame.filename).resolve(), frame.name) for frame in traceback.extract_stack(last)]
    return [
        f"{path.relative_to(ROOT).as_posix()} {name}"
        for path, name in frames
        if any(path.is_relative_to(folder) for folder in OURS)
    ]


def attended(kind: str) -> torch.Tensor:
    """One call of the detector's attention by the fused kernels."""
    shapes, channels, queries = ((4, 4), (2, 2)), 8, 3
    config = AttentionConfig(num_heads=2, num_points=2, backend="triton")
    attention = MultiScaleAttention(kind, channels, len(shapes), config).to(DEVICE)
    tokens = torch.randn(1, sum(h * w for h, w in shapes), channels, device=DEVICE)
    valid, ratios = torch.tensor([shapes], device=DEVICE), torch.ones(1, len(shapes), 2, device=DEVICE)
    memory = FeaturePyramid(tokens, tokens, valid, ratios, None, shapes)
    reference = torch.rand(1, queries, len(shapes), 2, device=DEVICE)
    return attention(torch.randn(1, queries, channels, device=DEVICE), reference, memory)


def shown(functions: list[str]) -> str:
    return f"{len(functions)} functions:\n" + "\n".join(functions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("records", [False, True], ids=["without gradients", "with gradients"])
def test_few_functions_lie_between_the_attention_and_its_launch(kind, records, launches):
    with torch.set_grad_enabled(records):
        attended(kind)
    (functions,) = launches
    assert functions[0] == FIRST, shown(functions)
    assert functions[-1] == LAST, shown(functions)
    assert len(functions) <= MOST, shown(functions)


@pytest.mark.parametrize("kind", KINDS)
def test_few_functions_lie_between_the_graph_and_the_launch_of_its_backward_pass(kind, launches):
    attended(kind).sum().backward()
    _, functions = launches
    assert functions[-1] == LAST, shown(functions)
    assert len(functions) <= MOST, shown(functions)
