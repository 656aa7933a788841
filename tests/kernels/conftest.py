"""Fixtures of the kernel tests."""

from dataclasses import replace

import pytest
from kernel_helpers import CASES, Problem, make_problem


@pytest.fixture(params=CASES, ids=list(CASES))
def problem(request) -> Problem:
    return make_problem(**CASES[request.param])


@pytest.fixture
def few_programs(monkeypatch) -> None:
    """The interpreter takes 30 ms for each."""
    from kernels.fused import launch  # not above: needs Triton

    monkeypatch.setattr(launch, "SEGMENTS", replace(launch.SEGMENTS, tokens=32))
