"""Constants on a device that are kept, and held by whoever needs them longer than the cache keeps them."""

import torch

from kernels import constants
from kernels.constants import constants_held, kept
from kernels.fused.tables import level_table

CPU = torch.device("cpu")


def test_a_constant_is_made_once_and_its_holders_see_it():
    made = []

    @kept
    def ones(number: int) -> torch.Tensor:
        """So many ones."""
        made.append(number)
        return torch.ones(number)

    first = ones(2)
    with constants_held() as outer:
        with constants_held() as inner:
            assert ones(2) is first
        three = ones(3)
    ones(4)
    assert made == [2, 3, 4]
    assert [x is y for x, y in zip(outer, (first, three), strict=True)] == [True, True]
    assert [x is first for x in inner] == [True]
    assert ones.__doc__ == "So many ones."


def test_a_holder_goes_where_an_error_leaves():
    try:
        with constants_held():
            raise KeyError
    except KeyError:
        pass
    assert constants._holders == []


def test_tables_of_the_kernels_are_held():
    with constants_held() as held:
        table = level_table(((2, 3), (1, 2)), CPU)
    assert held[0] is table
    assert table.tolist() == [[2, 3, 0, 0], [1, 2, 6, 12]]
