"""How many warps of a kernel a multiprocessor holds at a time."""

from __future__ import annotations

from dataclasses import dataclass

PARTITIONS = 4  # of a multiprocessor, each with registers of its own; on AMD SIMDs of a compute unit
KIB = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """What the programs on a multiprocessor share. A register is that of all lanes of a warp."""

    registers: int  # of a partition
    granule: int  # registers are handed to a warp in multiples of this
    most_warps: int  # at a time
    most_programs: int  # at a time
    shared: int  # bytes of shared memory
    reserved: int  # of these for each program


# NVIDIA: CUDA C++ programming guide, "Compute capabilities". AMD: CDNA 3 instruction set architecture.
MULTIPROCESSORS = {
    "sm_80": Multiprocessor(512, 8, 64, 32, 164 * KIB, KIB),
    "sm_86": Multiprocessor(512, 8, 48, 16, 100 * KIB, KIB),
    "sm_89": Multiprocessor(512, 8, 48, 24, 100 * KIB, KIB),
    "sm_90": Multiprocessor(512, 8, 64, 32, 228 * KIB, KIB),
    "sm_100": Multiprocessor(512, 8, 64, 32, 228 * KIB, KIB),
    "gfx942": Multiprocessor(512, 8, 32, 32, 64 * KIB, 0),
}


def resident_warps(target: str, warps: int, registers: int, shared: int) -> int | None:
    """Warps of a program that a multiprocessor of `target` holds at a time; None if `target` is not known here.

    warps: of one program; registers: of a thread; shared: bytes of one program.
    """
    unit = MULTIPROCESSORS.get(target)
    if unit is None:
        return None
    handed = -(-max(registers, 1) // unit.granule) * unit.granule
    by_registers = min(unit.registers // handed * PARTITIONS, unit.most_warps) // warps
    taken = shared + unit.reserved
    by_shared = unit.shared // taken if taken else unit.most_programs
    return min(by_registers, by_shared, unit.most_programs) * warps
