"""How many instructions a warp executes of each pipe, from its code and the trip counts of its loops.

A loop is the code from the target of a branch that goes back to that branch. Nothing else is followed: an instruction
that a forward branch or a predicate may skip counts as executed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from litedetr.kernels.bench.disassembly import Instruction

Loop = tuple[int, int]  # the first and the last address of its code


class NotCounted(ValueError):
    """A kernel's code has other loops than its source, or their trips are not known."""


def count_by_pipe(instructions: Sequence[Instruction], trips: Sequence[float]) -> Counter[str]:
    """Instructions that one warp executes of each pipe.

    trips: of each loop in the order of the code, an outer one before those in it; for each time that the loop is
    entered, on average.

    Raises NotCounted if there are more or fewer loops than trip counts: the compiler unrolled or split one.
    """
    loops = find_loops(instructions)
    if len(loops) != len(trips):
        sizes = [sum(first <= found.address <= last for found in instructions) for first, last in loops]
        raise NotCounted(f"trips: expected one of each loop, whose instructions are {sizes}, got {list(trips)}")
    counts = Counter()
    for instruction in instructions:
        inside = (first <= instruction.address <= last for first, last in loops)
        counts[instruction.pipe] += math.prod(trip for trip, is_inside in zip(trips, inside, strict=True) if is_inside)
    return counts


def find_loops(instructions: Sequence[Instruction]) -> list[Loop]:
    """Ordered by their first address. Several branches back to one address (`continue`) are one loop.

    Raises NotCounted if two overlap and neither holds the other.
    """
    last = {}
    for instruction in instructions:
        if instruction.target is not None and instruction.target <= instruction.address:
            last[instruction.target] = instruction.address
    loops = sorted(last.items())
    for place, (first, end) in enumerate(loops):
        if any(first < start <= end < stop for start, stop in loops[place + 1 :]):
            raise NotCounted(f"loops: expected each within or outside of the others, got {loops}")
    return loops
