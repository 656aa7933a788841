"""The kernels compile for GPUs that are not here, and nothing spills."""

import json
import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton")

# The launch rule was fitted with the assembler of Triton 3.9; that of 3.6 puts two predicates of some kernels into
# memory, nothing of a tile.
TRITON = tuple(map(int, triton.__version__.split(".")[:2]))
MOST_SECONDS = 400  # some ten times what it takes: a tile of a wrong size compiles without end
MOST_BYTES = 0 if TRITON >= (3, 9) else 8

# In a process of its own: the interpreter, which other tests need, has no compiler.
PROGRAM = """
import json, sys
from itertools import product
import torch
from litedetr.kernels.fused.launch import Shape, rule
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.resources import resources
from litedetr.kernels.bench.workloads import Workload

def found(run, workload, deterministic):
    launch = rule(Shape.of(run, workload.inputs("meta")))
    return [vars(r) for r in resources(Job(workload, run), launch, sys.argv[1], deterministic)]

rows = {}
for score, dtype in product(("deformable", "key_aware_shared", "key_aware"), (torch.bfloat16, torch.float32)):
    encoder = Workload(score, dtype, (1, 4))
    rows[f"forward {score} {dtype}"] = found("forward", encoder, False)
    rows[f"backward {score} {dtype}"] = found("backward", encoder, False)
    if dtype == torch.bfloat16:
        rows[f"deterministic {score} {dtype}"] = found("backward", encoder, True)
        rows[f"forward decoder {score} {dtype}"] = found("forward", Workload(score, dtype, None), False)
        rows[f"backward decoder {score} {dtype}"] = found("backward", Workload(score, dtype, None), False)
for dtype in (torch.float16, torch.float32):  # those with the most registers
    rows[f"deterministic key_aware {dtype}"] = found("segments", Workload("key_aware", dtype, (1, 4)), True)
print(json.dumps(rows))
"""


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sm_80", "sm_100", "gfx942")]


@pytest.mark.parametrize("target", ["sm_90", *SLOW])
def test_nothing_spills(target):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM, target]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    kernels = {row["kernel"] for found in rows.values() for row in found}
    assert kernels == {"forward_kernel", "backward_kernel", "segment_kernel"}
    assert all(row["registers"] > 16 for found in rows.values() for row in found)  # a number was read
    assert {what: found for what, found in rows.items() if any(row["spilled"] > MOST_BYTES for row in found)} == {}


def test_an_unknown_target_is_named():
    from litedetr.kernels.bench.resources import parse_target

    with pytest.raises(ValueError, match="^target: expected sm_<number> or gfx<number>, got 'h100'"):
        parse_target("h100")
