"""CUDA graphs: the GPU's work for one shape of batch is recorded once and replayed without Python."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from litedetr.engine.detect import Forward
from litedetr.kernels.bench.cuda_gpu import no_collection
from litedetr.kernels.constants import constants_held
from litedetr.settings import Flag, as_type, require
from litedetr.structures import ImageBatch

MOST_GRAPHS = 8  # each keeps a batch of images; inner values share one pool of memory
WARM_UPS = 2  # compile kernels, choose algorithms, make constants; a third pass is watched

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]
_log = logging.getLogger(__name__)


def check_cuda_graphs(cuda_graphs: bool, device: torch.device) -> bool:
    """Returns `cuda_graphs`. Raises ConfigError if it is not a bool, or if it is true and `device` is not a GPU."""
    cuda_graphs = as_type(Flag, cuda_graphs, "cuda_graphs")
    require(not cuda_graphs or device.type == "cuda", "cuda_graphs", "a GPU as device, or false", device.type)
    return cuda_graphs


class GpuCapture:
    """capture(function) -> replay. `replay()` repeats the recorded work, which writes new values into the tensor that
    `function` returned, and returns that tensor.

    All captures are on one stream: graphs share memory only if they were captured on the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # PyTorch's own for captures may be another device's

    def __call__(self, function: Callable[[], Tensor]) -> Replay:
        with torch.cuda.device(self.device):
            _warm_up(function, self._stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: another thread, as one that pins memory, may go on calling CUDA.
            capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
            # a capture that fails would else stay on its stream
            with no_collection(), torch.cuda.stream(self._stream), capture:
                result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def __reduce__(self) -> tuple[Any, ...]:
        return GpuCapture, (self.device,)


def _warm_up(function: Callable[[], Tensor], stream: torch.cuda.Stream) -> None:
    """On the stream of the capture, as PyTorch's notes on CUDA graphs ask for. In the last pass an operator that waits
    for the device raises an error that names it; in the capture the error would be one of CUDA's.
    """
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
        with _waiting_raises():
            function()
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _waiting_raises() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is a prototype that does not see every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@dataclass(frozen=True)
class Graph:
    """A recorded graph for one shape of batch."""

    images: ImageBatch  # the batch that `replay` reads
    replay: Replay
    constants: list[object]  # what else it reads, kept alive here

    def __call__(self, images: ImageBatch) -> Tensor:
        for name, value in _tensors(images).items():
            getattr(self.images, name).copy_(value, non_blocking=True)
        return self.replay().clone()  # the next replay, of this graph or another one, writes over it


class CudaGraphs:
    """graphs(images) -> forward(images), by a graph for each shape of batch.

    capture: what records, a GpuCapture. most: graphs that are kept; the least recently used one is dropped. After a
    capture that fails, which is logged once, new shapes are computed without a graph. Threads take turns.
    """

    def __init__(self, forward: Forward, capture: Capture, most: int = MOST_GRAPHS) -> None:
        self.forward, self.capture, self.most = forward, capture, most
        self._weights = [*forward.model.parameters(), *forward.model.buffers()]
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._failed = False
        self._lock = threading.Lock()

    @property
    def model(self) -> nn.Module:
        return self.forward.model

    def __call__(self, images: ImageBatch) -> Tensor:
        with self._lock:
            graph = self._graph(images)
            return self.forward(images) if graph is None else graph(images)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies begin without graphs."""
        return CudaGraphs, (self.forward, self.capture, self.most)

    def _graph(self, images: ImageBatch) -> Graph | None:
        """None if the capture failed."""
        key = self._key(images)
        if key not in self._graphs and not self._failed:
            self._record(key, images)
        if key not in self._graphs:
            return None
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _key(self, images: ImageBatch) -> Hashable:
        """What a graph is fixed to: shapes, dtypes, what is known on the host, and where the weights lie."""
        values = (getattr(images, field.name) for field in fields(images))
        of_batch = [(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in values]
        return (*of_batch, *(x.data_ptr() for x in self._weights))

    @torch.inference_mode(False)  # outside of inference mode its tensors could not be written to
    @torch.no_grad()
    def _record(self, key: Hashable, images: ImageBatch) -> None:
        own = replace(images, **{name: value.clone() for name, value in _tensors(images).items()})
        self.forward(own)  # an error that has nothing to do with graphs is raised here
        try:
            with constants_held() as constants:
                replay = self.capture(lambda: self.forward(own))
        except Exception as error:  # of CUDA, its allocator, or any operator: they have no class in common
            self._failed = True
            cause = error.__context__ or error  # what broke a capture, before it could not be ended
            _log.warning("cuda_graphs: %s; images of new sizes run without graphs", _reason(images, cause))
            return
        self._graphs[key] = Graph(own, replay, constants)
        if len(self._graphs) > self.most:
            self._graphs.popitem(last=False)


def _tensors(images: ImageBatch) -> dict[str, Tensor]:
    """The fields of a batch that are on the device, by name."""
    values = {field.name: getattr(images, field.name) for field in fields(images)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _reason(images: ImageBatch, error: Exception) -> str:
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in _tensors(images).items())
    what = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"a batch of {shapes} could not be captured ({type(error).__name__}: {what})"
