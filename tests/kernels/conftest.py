"""Fixtures of the kernel tests."""

import pytest
from kernel_helpers import CASES, Problem, make_problem


@pytest.fixture(params=CASES, ids=list(CASES))
def problem(request) -> Problem:
    return make_problem(**CASES[request.param])


@pytest.fixture
def few_programs(monkeypatch) -> None:
    """The interpreter takes 30 ms for each."""
    monkeypatch.setattr("kernels.fused.backend.SEGMENT_TOKENS", 32)
