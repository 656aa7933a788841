"""Instructions counted from the text of a kernel, from hand-written text and from compiled kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from litedetr.kernels.bench.counts import count_programs
from litedetr.kernels.bench.disassembly import PIPES, parse_amdgcn, parse_sass
from litedetr.kernels.bench.instructions import NotCounted, count_by_pipe, find_loops
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.occupancy import resident_warps
from litedetr.kernels.bench.resources import Program, parse_target
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import Segments

# A loop in a loop. The outer one's branch back lies behind the last exit, the code of diverged warps behind that.
NESTED = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;          /* 0x00000a00ff017b82 */
                                                                   /* 0x000fe20000000800 */
        /*0010*/                   FADD R2, R3, R4 ;
        /*0020*/                   LOP3.LUT R2, R3, R4 ;
        /*0030*/               @P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/                   FFMA R2, R3, R4, R5 ;
        /*0050*/                   BRA.DIV ~URZ, 0xd0 ;
        /*0060*/                   SHFL.BFLY PT, R2, R3, 0x1, 0x1f ;
        /*0070*/               @P1 BRA 0x30 ;
        /*0080*/                   MUFU.EX2 R2, R3 ;
        /*0090*/              @!P2 EXIT ;
        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00b0*/                   BRA 0x20 ;
        /*00c0*/                   NOP ;
        /*00d0*/                   WARPSYNC.COLLECTIVE R34, 0x60 ;
        /*00e0*/                   BRA 0x60 ;
        /*00f0*/                   BRA 0xf0 ;
"""
AMD = """
kernel:                                 ; @kernel
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\ts_cbranch_scc0 .LBB0_2
\ts_branch .LBB0_1
\tv_exp_f32_e32 v1, v1                  ; nothing leads here
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
\tbuffer_load_dwordx4 v[0:3], v4, s[4:7], 0 offen
\tv_pk_fma_f32 v[0:1], v[2:3], v[4:5], v[6:7]
\tv_add_f32_dpp v0, v1, v1 row_shr:1
\ts_nop 1
\ts_cbranch_scc1 .LBB0_1
.LBB0_2:
\tds_bpermute_b32 v0, v1, v2
\tds_write_b32 v0, v1
\tv_lshlrev_b32_e32 v0, 2, v0
\tglobal_atomic_add_f32 v0, v1, s[0:1]
\ts_endpgm
\t.section .rodata
.Lfunc_end0:
"""


def counts(text: str, trips: tuple[float, ...], parse=parse_sass) -> dict[str, float]:
    return {pipe: number for pipe, number in count_by_pipe(parse(text), trips).items() if number}


def test_other_kernels_loops_are_not_guessed():
    """Of a deterministic launch for AMD, whose compiler adds a loop."""
    program = Program("segment_kernel", (1, 1, 1), 1, 0, {"amdgcn": AMD}, parse_target("gfx942"))
    job = Job(Workload("deformable", torch.bfloat16, (1, 4)), "segments")
    with pytest.raises(NotCounted, match="^segment_kernel: for AMD's GPUs"):
        count_programs([program], job, Segments(32, 1))


def test_a_loop_in_a_loop():
    found = counts(NESTED, (3, 2.5))
    inner, outer = 3 * 2.5, 3
    assert found == {
        "fma": 1 + inner,
        "alu": outer,
        "loads": inner,
        "shuffles": inner,
        "xu": outer,
        "sync": outer,
        "other": 1 + 2 * inner + 2 * outer,  # LDC; both branches of the inner loop; EXIT and the outer loop's branch
    }


@pytest.mark.parametrize("trips", [(), (3,), (3, 2, 1)])
def test_other_loops_than_the_source_has_raise(trips: tuple[float, ...]):
    with pytest.raises(NotCounted, match=rf"one of each loop, whose instructions are \[10, 5\], got \[{'.*'}\]$"):
        count_by_pipe(parse_sass(NESTED), trips)


def test_loops_that_cross_raise():
    crossing = NESTED.replace("BRA 0x20 ;", "BRA 0x60 ;")  # begins within the first loop and ends behind it
    with pytest.raises(NotCounted, match="each within or outside of the others"):
        find_loops(parse_sass(crossing))


def test_branches_back_to_one_place_are_one_loop():
    assert find_loops(parse_sass(NESTED.replace("BRA 0x20 ;", "BRA 0x30 ;"))) == [(0x30, 0xB0)]


def test_amd():
    found = counts(AMD, (4,), parse_amdgcn)
    expected = {"loads": 4, "fma": 4, "shuffles": 4 + 1, "shared": 1, "alu": 1, "atomics": 1}
    assert found == expected | {"other": 3 + 4 + 1}  # the first three, the loop's branch, s_endpgm


@pytest.mark.parametrize(
    ("name", "pipe"),
    [
        ("IMAD.MOV.U32", "fma"), ("HFMA2.MMA", "fma"), ("FFMA2", "fma"), ("PRMT", "alu"), ("ISETP.GE.AND", "alu"),
        ("F2FP.BF16.F32.PACK_AB", "alu"), ("F2I.FTZ.FLOOR.NTZ", "xu"), ("LDG.E", "loads"), ("STG.E", "stores"),
        ("REDG.E.ADD.F32x4", "atomics"), ("ATOMG.E.CAS", "atomics"), ("LDS.128", "shared"), ("BSYNC", "sync"),
        ("LDL", "other"), ("UIADD3", "other"), ("DFMA", "other"), ("HMMA.1688.F32.TF32", "other"),
    ],
)  # fmt: skip
def test_pipes(name: str, pipe: str):
    (found,) = parse_sass(f"        /*0000*/                   {name} R1, R2 ;\n")
    assert found.pipe == pipe
    assert pipe in PIPES


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "resident"),
    [
        ("sm_90", 4, 80, 1024, 24),  # 6 programs of 4 * 80 * 32 registers in 65,536
        ("sm_90", 4, 97, 0, 16),  # 104 are handed out
        ("sm_90", 1, 24, 0, 32),  # at most 32 programs
        ("sm_90", 4, 24, 49 * 1024, 16),  # 4 programs in 228 KiB, a KiB more each
        ("sm_86", 4, 24, 0, 48),
        ("gfx942", 4, 98, 0, 16),
        ("gfx1100", 4, 98, 0, None),
    ],
)
def test_warps_of_a_multiprocessor(target: str, warps: int, registers: int, shared: int, resident: int | None):
    assert resident_warps(target, warps, registers, shared) == resident


def compiled(target: str) -> dict[str, dict[str, float]]:
    """What count_kernels.py counts. In a process of its own: the interpreter of other tests compiles nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).with_name("count_kernels.py"), target]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_compiled_kernels():
    """A loop of known trips, and the backward kernel, which adds each of four pixels of 32 channels in fp32, four
    channels a lane: one instruction of a warp for each sample. A step of the deterministic one reads the numbers of
    32 samples, their coefficients (16 bytes each), and 32 rows of 64 bytes.
    """
    found = compiled("sm_90")
    assert found["step"]["loads"] == pytest.approx(1 + 1 + 32 * 64 / (32 * 16))
    assert (found["chase"]["loads"], found["chase"]["stores"]) == (1 + 10, 1)
    assert found["backward"]["atomics"] == pytest.approx(1, rel=0.01)  # the last block of queries is not full


@pytest.mark.slow
@pytest.mark.parametrize(("target", "atomics"), [("sm_80", 4), ("sm_100", 1), ("gfx942", 2)])
def test_compiled_kernels_of_other_targets(target: str, atomics: int):
    """A lane adds four channels at once on sm_100 only; on gfx942 a wavefront has 64 lanes."""
    assert compiled(target)["backward"]["atomics"] == pytest.approx(atomics, rel=0.01)
