"""CUDA graphs: keys, limits, what is copied in and out, and what happens without them.

On a CPU the capture is played by functions that run again on the same tensors, as a replay does.
"""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from fake_cuda import FakeCuda
from test_inference_model import CPU, detector
from test_predictor import loaded_at, picture, predictor_at, same
from torch import Tensor

import litedetr
from litedetr.engine.detect import Forward, inference_copy
from litedetr.inference.cuda_graphs import CudaGraphs, GpuCapture
from litedetr.inference.predict_files import PredictConfig, open_prediction
from litedetr.inference.predictor import Predictor
from litedetr.kernels.constants import in_use
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Recorder:
    """capture(function): a replay runs `function` again on the tensors it closed over, into the same result."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.captures += 1
        result = function()

        def replay() -> Tensor:
            self.replays += 1
            return result.copy_(function())

        return replay


def batch(*sizes: tuple[int, int], seed: int = 0) -> ImageBatch:
    torch.manual_seed(seed)
    return ImageBatch.from_images([torch.randn(3, *size) for size in sizes])


@pytest.fixture(scope="module")
def forward() -> Forward:
    return Forward(inference_copy(detector(), CPU, "fp32"), "fp32")


def test_a_shape_is_captured_once_and_replayed_on_new_values(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    for seed in range(3):
        images = batch((64, 96), (64, 96), seed=seed)
        assert torch.equal(graphs(images), forward(images))
    assert (graphs.capture.captures, graphs.capture.replays) == (1, 3)


def test_the_sizes_of_padded_images_are_copied_in(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    found = []
    for size in ((50, 80), (33, 96)):
        images = batch((64, 96), size)
        images = replace(images, pixels=torch.ones_like(images.pixels))  # only the sizes differ
        found.append(graphs(images))
        assert torch.equal(found[-1], forward(images))
    assert not torch.equal(*found)
    assert graphs.capture.captures == 1


def test_batches_that_are_computed_in_another_way_are_captured_apart(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    one = batch((64, 96))
    others = [one, batch((64, 96), (64, 96)), batch((96, 64)), replace(one, padded=True)]
    for images in (*others, *others):
        assert torch.equal(graphs(images), forward(images))
    assert graphs.capture.captures == 4


def test_results_are_not_written_over_by_the_next_replay(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    first = graphs(batch((64, 96)))
    kept = first.clone()
    assert not torch.equal(graphs(batch((64, 96), seed=1)), kept)
    assert torch.equal(first, kept)


def test_what_was_given_is_not_written_to(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    first, second = batch((64, 96)), batch((64, 96), seed=1)
    pixels = first.pixels.clone()
    graphs(first)
    graphs(second)
    assert torch.equal(first.pixels, pixels)


def test_the_graph_that_was_not_used_for_longest_is_dropped(forward: Forward):
    graphs = CudaGraphs(forward, Recorder(), most=2)
    a, b, c = batch((64, 64)), batch((64, 96)), batch((96, 64))
    for images in (a, b, a, c):  # c takes the place of b
        graphs(images)
    assert graphs.capture.captures == 3
    graphs(a)
    graphs(c)
    assert graphs.capture.captures == 3
    graphs(b)
    assert graphs.capture.captures == 4


def test_any_fields_of_a_batch_are_taken(forward: Forward):
    """Those that are tensors are copied in, the others tell graphs apart."""

    @dataclass(frozen=True)
    class Scaled(ImageBatch):
        factor: Tensor
        shift: float

        def images(self) -> ImageBatch:
            return ImageBatch(self.pixels * self.factor + self.shift, self.sizes, self.padded)

    class Rescaling(Forward):
        def __call__(self, images: Scaled) -> Tensor:
            return super().__call__(images.images())

    rescaling = Rescaling(forward.model, "fp32")
    graphs = CudaGraphs(rescaling, Recorder())
    one = batch((64, 96))
    for factor, shift in ((1.0, 0.0), (2.0, 0.0), (2.0, 1.0), (3.0, 1.0)):
        images = Scaled(one.pixels, one.sizes, one.padded, torch.tensor([factor]), shift)
        assert torch.equal(graphs(images), rescaling(images))
    assert graphs.capture.captures == 2


def test_constants_that_a_graph_reads_stay_as_long_as_it(forward: Forward):
    number = torch.tensor(3.0)

    class WithConstant(Forward):
        def __call__(self, images: ImageBatch) -> Tensor:
            return super().__call__(images) + in_use(number)

    with_constant = WithConstant(forward.model, "fp32")
    graphs, images = CudaGraphs(with_constant, Recorder()), batch((64, 96))
    assert torch.equal(graphs(images), with_constant(images))
    (graph,) = graphs._graphs.values()
    assert any(constant is number for constant in graph.constants)


def test_after_a_capture_that_fails_new_shapes_run_without_and_it_is_told_once(forward, caplog):
    class Failing(Recorder):
        def __call__(self, function):
            if self.captures == 1:
                raise RuntimeError("called a synchronizing CUDA operation\nmore lines")
            return super().__call__(function)

    graphs = CudaGraphs(forward, Failing())
    with caplog.at_level(logging.WARNING):
        for images in (batch((64, 64)), batch((64, 96)), batch((96, 64)), batch((64, 96)), batch((64, 64))):
            assert torch.equal(graphs(images), forward(images))
    assert graphs.capture.replays == 2  # of the graph from before
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("cuda_graphs: a batch of pixels (1, 3, 64, 96), sizes (1, 2) could not be captured")
    assert message.endswith(
        "(RuntimeError: called a synchronizing CUDA operation); images of new sizes run without graphs"
    )


def test_an_error_of_the_detector_is_raised(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    wrong = ImageBatch(torch.zeros(1, 4, 64, 64), torch.tensor([[64, 64]]), False)
    with pytest.raises(RuntimeError, match="channels"):
        graphs(wrong)
    images = batch((64, 96))
    assert torch.equal(graphs(images), forward(images))
    assert graphs.capture.captures == 1  # the next one is captured all the same


def test_weights_that_move_are_captured_anew():
    """A graph reads weights where they lay. New values at the same place are seen."""
    forward = Forward(inference_copy(detector(), CPU, "fp32"), "fp32")
    graphs, images = CudaGraphs(forward, Recorder()), batch((64, 96))
    before = graphs(images)
    forward.model.load_state_dict({name: value * 1.1 for name, value in forward.model.state_dict().items()})
    changed = graphs(images)
    assert not torch.equal(changed, before)
    assert graphs.capture.captures == 1
    forward.model.double().float()
    assert torch.equal(graphs(images), changed)
    assert graphs.capture.captures == 2


def test_inference_mode_may_be_entered_and_left(forward: Forward):
    graphs = CudaGraphs(forward, Recorder())
    with torch.inference_mode():
        images = batch((64, 96))
        graphs(images)
    assert torch.equal(graphs(images), forward(images))
    assert graphs.capture.captures == 1


def test_a_predictor_detects_the_same_graphs_and_travels_without_them(cache: Path):
    predictor = predictor_at(cache)
    expected = predictor.predict([picture(), picture(48, 64)], threshold=0)
    predictor.forward = CudaGraphs(predictor.forward, Recorder())
    model = predictor.model
    for one in (predictor, copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor, 2))):
        found = one.predict([picture(), picture(48, 64)], threshold=0)
        assert all(same(*pair) for pair in zip(found, expected, strict=True))
        assert len(one.forward._graphs) == 2
        assert (one.model is model) == (one is predictor)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    found = FakeCuda()
    found.install(monkeypatch)
    return found


def test_captures_share_their_memory_and_nothing_is_collected_within(fake: FakeCuda):
    """Memory is shared by captures of one pool and one stream only."""
    capture, collecting = GpuCapture(torch.device("cuda")), []
    for _ in range(2):
        capture(lambda: collecting.append(gc.isenabled()) if fake.captured is not None else None)
    assert collecting == [False, False]
    assert gc.isenabled()
    assert len(fake.captures) == 2
    assert len(set(map(id, (x for pair in fake.captures for x in pair)))) == 2


def test_a_capture_that_fails_leaves_its_stream_and_says_what_broke_it(fake: FakeCuda, forward: Forward, caplog):
    class Waiting(Forward):
        """Where PyTorch's own check does not see it."""

        def __call__(self, images: ImageBatch) -> Tensor:
            if fake.captured is not None:
                fake.wait()
            return super().__call__(images)

    graphs = CudaGraphs(Waiting(forward.model, "fp32"), GpuCapture(torch.device("cuda")))
    images = batch((64, 96))
    assert torch.equal(graphs(images), forward(images))
    assert fake.stream is fake.main
    (message,) = (record.getMessage() for record in caplog.records)
    assert "could not be captured (RuntimeError: operation not permitted when stream is capturing)" in message


def test_a_cpu_is_refused_before_the_checkpoint_is_read(cache: Path, tmp_path: Path):
    missing = tmp_path / "none.pt"
    for use in (
        lambda: litedetr.load(missing, "cpu", cuda_graphs=True),
        lambda: Predictor.load(missing, CPU, cuda_graphs=True),
        lambda: Predictor(loaded_at(cache), CPU, cuda_graphs=True),
    ):
        with pytest.raises(ConfigError, match="^cuda_graphs: expected a GPU as device, or false, got 'cpu'$"):
            use()
    for wrong in (1, "yes", None):
        with pytest.raises(ConfigError, match="^cuda_graphs: expected true or false"):
            Predictor.load(missing, CPU, cuda_graphs=wrong)
    picture().save(tmp_path / "a.png")
    (tmp_path / "best.pt").write_bytes(b"none")  # unreadable, but not the first to be told
    config = PredictConfig(str(tmp_path / "best.pt"), str(tmp_path / "a.png"), device="cpu", cuda_graphs=True)
    with pytest.raises(ConfigError, match="^cuda_graphs: expected a GPU as device"):
        open_prediction(config)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_of_a_gpu_give_what_a_pass_without_them_gives(cache: Path, precision: str, caplog):
    plain, graphs = (Predictor(loaded_at(cache), "cuda", precision, with_graphs) for with_graphs in (False, True))
    images = [picture(), picture(48, 64), picture(seed=1), picture(48, 64, seed=2), picture(seed=3)]
    for _ in range(2):
        for image in images:
            (expected,), (found,) = (one.predict(image, threshold=0) for one in (plain, graphs))
            torch.testing.assert_close(found.scores, expected.scores, atol=1e-3, rtol=1e-3)
    assert len(graphs.forward._graphs) == 2
    assert not caplog.records


@needs_gpu
def test_padded_batches_of_a_gpu_are_replayed():
    device = torch.device("cuda")
    forward = Forward(inference_copy(detector(), device, "fp32"), "fp32")
    graphs = CudaGraphs(forward, GpuCapture(device), most=2)
    for size in ((50, 80), (33, 96), (64, 40)) * 2:
        images = batch((64, 96), size).to(device)
        torch.testing.assert_close(graphs(images), forward(images), atol=1e-3, rtol=1e-3)
    assert len(graphs._graphs) == 1
