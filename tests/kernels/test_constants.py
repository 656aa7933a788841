"""Constants that are held by whoever needs them longer than their cache keeps them."""

import pytest
import torch
from kernel_helpers import attend, make_problem

from litedetr.kernels import constants
from litedetr.kernels.constants import constants_held, in_use
from litedetr.kernels.fused.call import Plan
from litedetr.kernels.points import as_tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_all_holders_see_a_constant_in_use():
    with constants_held() as outer:
        with constants_held() as inner:
            assert in_use("a") == "a"
        in_use("b")
    in_use("c")
    assert (outer, inner) == (["a", "b"], ["a"])


def test_a_holder_sees_a_constant_while_another_leaves(monkeypatch):
    class Leaving(list):
        def append(self, constant):
            constants._holders.remove(self)

    held = []
    monkeypatch.setattr(constants, "_holders", [Leaving(), held])
    in_use("a")
    assert held == ["a"]


def test_a_holder_goes_where_an_error_leaves():
    with pytest.raises(KeyError), constants_held():
        raise KeyError
    assert constants._holders == []


def test_what_launches_read_is_held_by_the_first_and_by_later_ones():
    problem = make_problem().to(DEVICE)
    for _ in range(2):
        with constants_held() as held:
            attend("key_aware_shared", problem, "triton")
        assert [type(constant) for constant in held] == [Plan]
        with constants_held() as held:
            given = as_tensor([1, 2], torch.zeros(1))
        assert torch.equal(held[0], given)
        assert held[0] is not given
