"""The ranks of a run, one or those that torchrun started; their devices, and collectives of values on the host."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from litedetr.engine.run_config import Device
from litedetr.faults.processes import lost_ranks_named
from litedetr.settings import require

T = TypeVar("T")
SWEEP_JOB = "LITEDETR_SWEEP_JOB"  # an environment variable: the number of the job that a process belongs to


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of the run, and its device."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, in the order of ranks, on every rank. Picklable; travels through the host."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_numbers(self, *values: float) -> list[list[float]]:
        """The numbers of every rank, (world_size, len(values)), without pickling: for every step."""
        if self.world_size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64)
        gathered = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(gathered, own)
        return [row.tolist() for row in gathered]

    def gather_to_main(self, value: T) -> list[T] | None:
        """As `gather`, but only the main rank receives; None elsewhere."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return values

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """`model`, whose backward pass averages the gradients over all ranks. Its buffers must be constants."""
        if self.world_size == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        options = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"  # from 2.13 on
        return DistributedDataParallel(model, device_ids=device_ids, **{buffers: False})


def choose_device(device: Device | str | int | torch.device) -> torch.device:
    """The device of a single process.

    device: auto, cpu, cuda or cuda:<n>; a torch.device of these; or the n of cuda:<n>. ConfigError for another one, and
    for a GPU that this machine does not offer.
    """
    has_gpu = torch.cuda.is_available()
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    chosen = _as_device(device)
    known = chosen is not None and chosen.type in ("cpu", "cuda")
    require(known, "device", "auto, cpu, cuda or cuda:<number>", device)
    if chosen.type == "cpu":
        return torch.device("cpu")
    require(has_gpu, "device", "auto or cpu, as this machine offers no CUDA GPU", device)
    last = torch.cuda.device_count() - 1
    fits = chosen.index is None or chosen.index <= last
    require(fits, "device", f"cuda, or cuda:0 to cuda:{last}, the GPUs of this machine", device)
    return chosen


def _as_device(device: object) -> torch.device | None:
    """None if torch knows no such device. A number is a GPU's, even if torch has other accelerators."""
    if isinstance(device, bool):
        return None
    try:
        return torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    except (RuntimeError, TypeError):  # text of another form, another type
        return None


@contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """The ranks that torchrun started, or a single one without it. Leaves the process group at the end.

    Raises ConfigError if a GPU is asked for and there is none or not one for each process, and LostRanksError if
    another rank ended too early.
    """
    on_gpu = choose_device(device).type == "cuda"
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    own_device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        num_gpus, processes = torch.cuda.device_count(), os.environ.get("LOCAL_WORLD_SIZE", "1")
        require(local_rank < num_gpus, "--nproc-per-node", f"at most the number of GPUs ({num_gpus})", processes)
        torch.cuda.set_device(own_device)
    if world_size == 1:
        yield Ranks(own_device)
        return
    # Host numbers travel by gloo even if gradients travel by NCCL, so they never wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", **_rendezvous())
    ranks = Ranks(own_device, dist.get_rank(), world_size)
    # Only after success: a rank that failed must not wait here for the others.
    with lost_ranks_named():
        yield ranks
        ranks.gather_numbers(0)  # a rank that leaves early can cut off what another one has not read yet
    dist.destroy_process_group()


def _rendezvous() -> dict[str, Any]:
    """Where the ranks find each other: torchrun's store. In a sweep each job has a part of it, since the addresses of
    an earlier job's processes stay there.
    """
    job = os.environ.get(SWEEP_JOB)
    if job is None:
        return {}
    store, rank, world_size = next(dist.rendezvous("env://"))
    return {"store": dist.PrefixStore(f"job_{job}", store), "rank": rank, "world_size": world_size}


def use_all_cores() -> None:
    """Let CPU operations use every core this process may run on, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def use_deterministic_algorithms() -> None:
    """Operations without a deterministic form raise an error from now on; cuBLAS needs a fixed workspace for it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
