"""The probes' kernels: what they compute, and that GPUs' compilers take them."""

import os
import subprocess
import sys

import pytest
import torch

triton = pytest.importorskip("triton")

from litedetr.kernels.bench.memory_probes import BLOCK_ROWS, CHANNELS, TINY, atomics, gathers  # noqa: E402  it needs Triton

TRITON = tuple(map(int, triton.__version__.split(".")[:2]))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = 9 if DEVICE.type == "cpu" else 12  # the interpreter has no atomics in bf16


def test_additions_add_one_to_every_row_that_is_named():
    seen = set()
    for probe in atomics(TINY, DEVICE):
        probe()
        table, rows = (x.cpu() for x in probe.arguments[:2])
        expected = torch.bincount(rows.long(), minlength=len(table) // CHANNELS).float()
        if probe.what == "fp32, stores":
            expected.clamp_(max=1)
        torch.testing.assert_close(table.float().view(-1, CHANNELS), expected[:, None].expand(-1, CHANNELS))
        seen.add((probe.what, probe.where))
    assert len(seen) == KINDS


def test_places_of_additions_differ():
    counts = {probe.where: len(probe.arguments[1].unique()) for probe in atomics(TINY, DEVICE)}
    assert counts["coarse"] <= TINY.coarse_tokens * TINY.heads < counts["random"]


def test_gathers_sum_the_rows_that_they_read():
    for probe in gathers(TINY, DEVICE):
        probe()
        *tensors, indices = probe.arguments
        table, tokens, out = (x.cpu() for x in tensors)
        heads, words = probe.constants["HEADS"], CHANNELS // 2
        line = torch.arange(TINY.programs * BLOCK_ROWS)
        rows = table.view(-1, TINY.heads, words)
        steps = [tokens[(line + step * BLOCK_ROWS) % indices].long() for step in range(TINY.repeats)]
        expected = sum(rows[token, line % heads] for token in steps)
        torch.testing.assert_close(out.view(-1, words), expected.to(torch.int32))
        assert probe.bytes == len(line) * TINY.repeats * words * 4


# In a process of its own: the interpreter, which other tests need, has no compiler.
COMPILED = """
import torch
from litedetr.kernels.bench.resources import Compiler, compiling_for, parse_target
from litedetr.kernels.bench.memory_probes import Sizes, atomics, gathers

probes = {probe.what: probe for make in (atomics, gathers) for probe in make(Sizes(), torch.device("meta"))}
for target in ("sm_90", "gfx942"):
    for probe in probes.values():
        compiler = Compiler(parse_target(target))
        with compiling_for(compiler.target):
            probe(compiler)
        print(target, [found.spilled for found in compiler.resources], probe.what)
"""


@pytest.mark.skipif(TRITON < (3, 3), reason="the AMD backend of Triton 3.2 wants ROCm's linker")
def test_they_compile_without_spills():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 6
    assert all(" [0] " in line for line in lines), done.stdout
