"""Batches that a thread moves into page-locked memory: what passes through it, and what happens when it fails.

Without a GPU PyTorch does not start the thread; here it is made to believe in one.
"""

import inspect
import os
import signal
import threading
import time

import pytest
import torch
from engine_helpers import run_config
from torch import Tensor
from torch.utils.data import Dataset, dataloader
from torch.utils.data._utils import pin_memory

from litedetr.data import DataError, Sample, build_datasets
from litedetr.engine import loader
from litedetr.engine.batches import StepBatches
from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import Loader, LoaderSettings, build_loader
from litedetr.faults.processes import LoaderError, loader_failures_named
from litedetr.structures import Target


class Images(Dataset):
    """Item 5 is a DataError; process by process, item 9 is the end."""

    def __getitem__(self, index: int) -> Sample:
        if index == 5:
            raise DataError("image 5 is none")
        if index == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        image = torch.full((3, 8, 8), index, dtype=torch.uint8)
        return Sample(image, Target(torch.zeros(1).long(), torch.rand(1, 4), index, (8, 8)))


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that pinned a tensor."""
    if "torch.accelerator.is_available" not in inspect.getsource(dataloader):
        pytest.skip("older: asks for CUDA by name")
    threads = []

    def pin(x: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        return x.clone()

    for name, value in {
        "is_available": lambda: True,
        "current_accelerator": lambda: torch.device("cpu"),
        "current_device_index": lambda: 0,
        "set_device_index": lambda index: None,
    }.items():
        monkeypatch.setattr(torch.accelerator, name, value)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return threads


def batches(indices: list[int], num_workers: int = 2) -> Loader:
    return Loader(Images(), [[index] for index in indices], num_workers, prefetch=2, pin=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_are_pinned_beside_this_thread(pinned: list[threading.Thread], num_workers: int):
    with batches([0, 1, 2, 3], num_workers) as loading:
        for _ in range(2):  # epochs
            assert [int(images.pixels[0, 0, 0, 0]) for images, _ in loading] == [0, 1, 2, 3]
    assert len(pinned) >= 2 * 4 * 2  # pixels and sizes
    assert (threading.current_thread() in pinned) == (num_workers == 0)
    assert not any(thread.is_alive() for thread in pinned if thread is not threading.current_thread())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_error_passes_through(pinned: list[threading.Thread], num_workers: int):
    with batches([0, 1, 5, 2], num_workers) as loading, pytest.raises(DataError, match="^image 5 is none$"):
        list(loading)
    assert pinned


def test_a_killed_process_is_told(pinned: list[threading.Thread]):
    with (
        pytest.raises(LoaderError, match=r"^a process that loads images failed \("),
        loader_failures_named(),
        batches([0, 1, 9, 2, 3]) as loading,
    ):
        list(loading)


def test_the_end_of_the_thread_is_told(pinned: list[threading.Thread], monkeypatch: pytest.MonkeyPatch):
    """As where a process ended while the thread took its images."""
    monkeypatch.setattr(pin_memory, "_pin_memory_loop", lambda *arguments: None)
    expected = r"^a process that loads images failed \(Pin memory thread exited unexpectedly\)"
    with pytest.raises(LoaderError, match=expected), loader_failures_named(), batches([0, 1]) as loading:
        list(loading)


def test_a_thread_that_waits_forever_is_left_behind(pinned: list[threading.Thread], monkeypatch: pytest.MonkeyPatch):
    forever = threading.Event()
    monkeypatch.setattr(pin_memory, "_pin_memory_loop", lambda *arguments: forever.wait())
    monkeypatch.setattr(loader, "PATIENCE", 0.2)
    start = time.monotonic()
    with batches([0, 1]) as loading:
        loading._batches.__iter__()
    assert time.monotonic() - start < 5
    forever.set()


def test_of_an_error_of_cuda_its_first_line_is_the_reason():
    text = (
        "Caught RuntimeError in pin memory thread for device 0.\nOriginal Traceback (most recent call last):\n"
        '  File "pin_memory.py", line 41, in do_one_step\n    data = pin_memory(data, device)\n'
        "RuntimeError: CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions.\n"
    )
    expected = r"^a process that loads images failed \(RuntimeError: CUDA error: out of memory\)"
    with pytest.raises(LoaderError, match=expected), loader_failures_named():
        raise RuntimeError(text)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_gpu_wants_pinned_memory(cache, device: str):
    data = build_datasets(run_config(cache).data, 0)
    settings, ranks = LoaderSettings(2, 0, 0, prefetch=3), Ranks(torch.device(device))
    loaders = (StepBatches(data.train, settings, ranks, 1).loader, build_loader(data.val, settings, ranks))
    assert all(loading._batches.pin_memory == (device == "cuda") for loading in loaders)
