"""Fixtures of the kernel tests."""

import os

import pytest
from kernel_helpers import CASES, NEAREST, Problem, make_problem

from litedetr.kernels.functional import HAS_TRITON


@pytest.fixture(params=CASES | NEAREST)
def problem(request) -> Problem:
    return make_problem(**(CASES | NEAREST)[request.param])


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Tests set other rules, limits and names of GPUs."""
    if not HAS_TRITON:
        return
    from litedetr.kernels.fused import call, launch  # not above: needs Triton

    for cache in (launch.rule_of_queries, launch.gpu_name, call.plan_of):
        cache.cache_clear()


@pytest.fixture(autouse=True)
def chosen_path(request, monkeypatch) -> None:
    """See kernels/plain.py."""
    if request.config.getoption("--operators"):
        monkeypatch.setattr("litedetr.kernels.plain.is_watched", lambda: True)


@pytest.fixture
def both_paths(request) -> None:
    """Of tests that choose between the paths themselves."""
    if request.config.getoption("--operators"):
        pytest.skip("--operators leaves no choice of path")


@pytest.fixture
def few_programs(monkeypatch) -> None:
    """Long steps of the deterministic pass: the interpreter is slow. A GPU takes its own, or it would spill."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from litedetr.kernels.fused import launch  # not above: needs Triton

    monkeypatch.setattr(launch, "SEGMENT_SAMPLES", {})
