"""Whatever numbers and layouts the attentions are given: the reference's result, and no access out of bounds.

Without a GPU the fused kernels are interpreted and their accesses watched; with one, compute-sanitizer can watch them.
"""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from lying_problems import Lie, assert_as_expected, exact_results, lies, results
from memory_guard import guarded, obstacle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check_cpu(lie: Lie) -> None:
    """The CPU path and, as it is, the reference."""
    expected = exact_results(lie)
    assert_as_expected(results("auto", lie), expected, lie)
    assert_as_expected(results("reference", lie), expected, lie)


def check_fused(lie: Lie) -> None:
    on_device = Lie(lie.kind, lie.problem.to(DEVICE), lie.deterministic)
    watch = nullcontext() if DEVICE == "cuda" else guarded()
    with watch:
        found = results("triton", on_device)
    assert_as_expected(found, exact_results(lie), lie)


@settings(max_examples=300)
@given(lies(4))
def test_cpu_path(lie):
    check_cpu(lie)


@pytest.mark.slow
@settings(max_examples=3000)
@given(lies(7))
def test_cpu_path_at_length(lie):
    check_cpu(lie)


watched = pytest.mark.skipif(DEVICE == "cpu" and obstacle() is not None, reason=str(obstacle()))


@watched
@settings(max_examples=20)
@given(lies(3))
def test_fused_kernels(lie):
    check_fused(lie)


@watched
@pytest.mark.slow
@settings(max_examples=200)
@given(lies(4))
def test_fused_kernels_at_length(lie):
    check_fused(lie)
