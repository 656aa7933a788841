"""Kernels of other libraries as they are launched to be counted; their sources need not be here."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.peer_kernels import PEER_KERNELS
from litedetr.kernels.bench.workloads import Workload

SHAPES = ((4, 6), (2, 3))
SOURCE = """
from types import SimpleNamespace as Kernel
_msda_forward_kernel = Kernel(fn="forward")
_msda_backward_kernel = "backward"
BWD_BLOCK_Q, BWD_NUM_WARPS = 16, 4
"""


class Names:
    """A module that has every kernel, tuned or not."""

    BWD_BLOCK_Q, BWD_NUM_WARPS = 16, 4

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(fn=name)


def job(pass_name: str = "forward", score: str = "deformable", dtype: torch.dtype = torch.bfloat16) -> Job:
    return Job(Workload(score, dtype, None, 37, shapes=SHAPES, heads=2, points=4), pass_name)


@pytest.mark.parametrize("name", PEER_KERNELS)
@pytest.mark.parametrize("pass_name", ["forward", "backward"])
def test_launches(name: str, pass_name: str):
    """One kernel, on a grid that has every query; every argument is known without memory."""
    launches = []
    work = job(pass_name).workload
    PEER_KERNELS[name].launch(Names(), work, pass_name, lambda *given, **constants: launches.append((given, constants)))
    (((_, grid, *arguments), constants),) = launches
    block = next((constants[key] for key in ("BLOCK_SIZE_Q", "BLOCK_Q", "BLOCK_M") if key in constants), 1)
    assert grid[0] == -(-37 // block)
    assert grid[1] * grid[2] == 2
    tensors = [item for item in arguments if isinstance(item, torch.Tensor)]
    assert len(tensors) >= 5
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_source_is_a_file_of_the_users(tmp_path: Path):
    kernels = PEER_KERNELS["roulbac"]
    (tmp_path / "roulbac.py").write_text(SOURCE)
    module = kernels.load("roulbac", tmp_path)
    launches = []
    kernels.launch(
        module, job().workload, "backward", lambda kernel, *_, **constants: launches.append((kernel, constants))
    )
    ((kernel, constants),) = launches
    assert (kernel, constants["num_warps"], constants["BLOCK_Q"]) == ("backward", 4, 16)


@pytest.mark.parametrize("folder", [None, Path("nowhere")])
def test_a_source_that_is_missing_is_named(folder: Path | None):
    with pytest.raises(FileNotFoundError, match="^roulbac: expected a copy of github.com/roulbac/.* as roulbac.py"):
        PEER_KERNELS["roulbac"].load("roulbac", folder)


def test_peers_take_jobs_in_their_own_precision():
    assert PEER_KERNELS["rziga"].takes(job()).workload.dtype == torch.float16
    assert PEER_KERNELS["rziga"].takes(job(dtype=torch.float32)) == job(dtype=torch.float32)
    assert PEER_KERNELS["rziga"].takes(job(score="key_aware")) is None
    assert PEER_KERNELS["alexander0yang"].takes(job(score="key_aware")).workload.dtype == torch.float16


def test_sums_in_single_precision_are_a_row_of_their_own_only_if_they_differ():
    taken = PEER_KERNELS["deformops_fp32"].takes
    assert taken(job("backward")) == job("backward")
    assert taken(job("forward")) is None
    assert taken(job("backward", dtype=torch.float32)) is None
