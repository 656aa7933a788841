"""A training step waits for the device as often as its host needs results, whatever is in the batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from litedetr.engine.distributed import Ranks
from litedetr.engine.ema import ModelAverage
from litedetr.engine.loader import MicroBatch
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.run_config import RunConfig
from litedetr.engine.step_result import read_parts
from litedetr.engine.train_step import TrainStep
from litedetr.losses import Criterion, matcher
from litedetr.models import build_detector
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch, Target, TargetBatch
from litedetr.tools.host_syncs import HostSync, HostSyncCounter, count_host_syncs
from litedetr.tools.random_batch import random_targets
from litedetr.tools.simulated_device import SIMULATED, SimulatedDevice
from litedetr.transfers import to_device, to_host

CONF = Path(__file__).parents[2] / "conf"
SYSTEMS = {
    "DINO": ["model=lite_dino"],
    "DINO with all branches": ["model=lite_dino", "hybrid.num_queries=30"],
    "H-DETR": ["model=lite_h_detr"],
    "Deformable DETR": ["model=lite_deformable_detr"],
}
NUM_CLASSES = 5
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def build_step(
    system: str, device: torch.device, precision: str = "fp32", loss: str = "published", optimizer: str = "adamw"
) -> TrainStep:
    """Of the small detectors that scripts/train.py trains, with fewer layers."""
    settings = [*SYSTEMS[system], "a=1", "b=1", "decoder.num_layers=2", "query_selection.num_queries=20"]
    settings.append(f"schedule.optimizer={optimizer}")
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("train", [*settings, "size=small", "backbone=resnet18_slim", "transforms=native", f"loss={loss}"])
    config = RunConfig.from_settings(OmegaConf.to_container(cfg, resolve=True))
    torch.manual_seed(0)
    model = build_detector(config.model, NUM_CLASSES).to(device).train()
    return TrainStep(
        model=model,
        criterion=Criterion(config.loss),
        update=WeightUpdate.build(model, config.schedule, precision),
        precision=precision,
        seed=0,
        ranks=Ranks(device),
    )


def batch_of(batch_size: int) -> MicroBatch:
    """Page-locked images of two sizes, with 0, 1, 2, ... objects."""
    sizes = [(64, 96), (96, 64)] * (batch_size // 2)
    images = ImageBatch.from_images([torch.randn(3, *size) for size in sizes])
    images = replace(images, pixels=images.pixels.pin_memory(), sizes=images.sizes.pin_memory())
    items = [random_targets(size, 1, number, NUM_CLASSES).items[0] for number, size in enumerate(sizes)]
    return images, TargetBatch.from_targets(items).pin_memory()


def total(syncs: list[HostSync]) -> int:
    """How often the host waits for the device."""
    return sum(sync.count for sync in syncs)


def places(counter: HostSyncCounter) -> dict[str, int]:
    """Number of waits by file."""
    found: dict[str, int] = {}
    for wait in counter.syncs:
        file = wait.where.split(":")[0]
        found[file] = found.get(file, 0) + wait.count
    return found


@pytest.fixture
def simulated() -> Iterator[None]:
    with SimulatedDevice():
        yield


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_waits_once_a_micro_batch_and_once_before_the_update(simulated: None, system: str):
    step = build_step(system, SIMULATED)
    average = ModelAverage(step.model, 0.9)
    num_copies = set()
    for accumulate, batch_size in ((1, 2), (1, 4), (2, 2)):
        batches = [batch_of(batch_size) for _ in range(accumulate)]
        with HostSyncCounter(SIMULATED) as counter:
            result = step(0, batches)
            average.update(step.model, 0)
        expected = {"litedetr/losses/matcher.py": accumulate, "litedetr/engine/train_step.py": 1}
        assert places(counter) == expected, counter.syncs
        num_copies.add(total(counter.copies) / accumulate)
    assert len(num_copies) == 1  # no copy for each image
    assert 1 < num_copies.pop() < 8
    assert total(count_host_syncs(lambda: read_parts(result.parts), SIMULATED)) == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_waits_no_more(simulated: None, precision: str):
    """Not for the scaler either: AdamW itself leaves out a step that overflowed."""
    step = build_step("DINO", SIMULATED, precision)
    assert total(count_host_syncs(lambda: step(0, [batch_of(2)]), SIMULATED)) == 2


@pytest.mark.parametrize("loss", sorted(path.stem for path in (CONF / "loss").glob("*.yaml")))
def test_no_loss_waits_by_itself(simulated: None, loss: str):
    step = build_step("DINO", SIMULATED, loss=loss)
    assert total(count_host_syncs(lambda: step(0, [batch_of(4)]), SIMULATED)) == 2


def test_muon_waits_no_more(simulated: None):
    step = build_step("DINO", SIMULATED, optimizer="muon")
    with HostSyncCounter(SIMULATED) as counter:
        step(0, [batch_of(2)])
    assert places(counter) == {"litedetr/losses/matcher.py": 1, "litedetr/engine/train_step.py": 1}, counter.syncs


def test_the_simulated_device_computes_what_the_cpu_computes(simulated: None):
    """And so nothing that it counted was left out."""
    losses = []
    for device in (torch.device("cpu"), SIMULATED):
        torch.manual_seed(0)
        batch = batch_of(2)
        step = build_step("DINO", device)
        losses.append([step(0, [batch]).loss for _ in range(2)])
    assert losses[0][1] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def indices(x: Tensor) -> Tensor:
    return torch.zeros(1, dtype=torch.int64, device=x.device)


def assign(index: Callable[[Tensor], object], value: object) -> Callable[[Tensor], object]:
    def call(x: Tensor) -> None:
        x.clone()[index(x)] = value(x) if callable(value) else value

    return call


FAULTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 0 if x.sum() > 0 else 1,
    "tolist": lambda x: x[0, 0].tolist(),
    "cpu": lambda x: x.cpu(),
    "non-blocking copy to the host": lambda x: x.to("cpu", non_blocking=True),
    "copy into a tensor of the host": lambda x: torch.empty(x.shape).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "boolean index": lambda x: x[x > 0],
    "boolean index that is assigned to": assign(lambda x: x > 0, lambda x: x[0, 0, 0]),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x + 1),
    "repeat_interleave by a tensor": lambda x: x[0].repeat_interleave(torch.ones_like(x[0, :, 0]).long(), dim=0),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "as_tensor": lambda x: torch.as_tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "to the device": lambda x: torch.ones(3).to(x.device),
    "to the device, not blocking": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "to the device, page-locked": lambda x: torch.ones(3).pin_memory().to(x.device),
    "copy from a tensor of the host": lambda x: torch.empty_like(x[0, 0]).copy_(torch.ones(x.shape[-1])),
    "index of the host": lambda x: x[torch.tensor([0])],
    "number at indices": assign(indices, 1),
    "number at a place": assign(lambda x: (0, 0, 0), 1),
}
HARMLESS: dict[str, Callable[[Tensor], object]] = {
    "arange": lambda x: torch.arange(3, device=x.device) + x[0, 0, 0],
    "new_full": lambda x: x.new_full((3,), 2.0),
    "page-locked and not blocking": lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True),
    "number of the host": lambda x: x * torch.tensor(2.0),
    "index": lambda x: x[indices(x)],
    "tensor at indices": assign(indices, lambda x: x[0]),
    "number in a slice": assign(lambda x: slice(1, None), 1),
    "number where a mask is": assign(lambda x: x > 0, 1),
    "masked_fill": lambda x: x.masked_fill(x > 0, 1.0),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=0),
    "repeat_interleave of a known size": lambda x: x[0, :1].repeat_interleave(indices(x) + 3, dim=0, output_size=3),
    "within the host": lambda x: (torch.tensor([1, 2]).tolist(), torch.ones(3)[torch.ones(3) > 0].sum().item()),
}


@contextmanager
def done_to_the_memory(step: TrainStep, act: Callable[[Tensor], object], backward: bool) -> Iterator[None]:
    """`act` is called with the encoder's tokens, or with their gradient, in the middle of the step."""

    def on_forward(module: object, arguments: object, memory) -> None:
        if backward:
            memory.tokens.register_hook(lambda gradient: act(gradient) and None)
        else:
            with torch.no_grad():
                act(memory.tokens)

    handle = step.model.encoder.register_forward_hook(on_forward)
    yield
    handle.remove()


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_what_waits_in_the_middle_of_a_step_is_counted(simulated: None, backward: bool):
    step, batch = build_step("DINO", SIMULATED), batch_of(2)
    own = {}

    def act(x: Tensor) -> None:
        for name, call in (FAULTS | HARMLESS).items():
            with HostSyncCounter(SIMULATED) as counter:
                call(x)
            own[name] = total(counter.syncs)

    with done_to_the_memory(step, act, backward):
        waits = count_host_syncs(lambda: step(0, [batch]), SIMULATED)
    assert own == dict.fromkeys(FAULTS, 1) | dict.fromkeys(HARMLESS, 0)
    assert total(waits) == 2 + len(FAULTS)


def test_a_wait_is_named_by_operator_and_line(simulated: None):
    step, batch = build_step("DINO", SIMULATED), batch_of(2)
    with done_to_the_memory(step, FAULTS["nonzero"], backward=False):
        waits = count_host_syncs(lambda: step(0, [batch]), SIMULATED)
    (found,) = [wait for wait in waits if wait.operator == "aten.nonzero.default"]
    file, line = found.where.split(":")
    assert file == "litedetr/models/detector.py"
    source = (CONF.parent / file).read_text().splitlines()
    assert "self.encoder(" in source[int(line) - 1]


def test_the_host_is_no_device_to_wait_for():
    for device in (torch.device("cpu"), SIMULATED):  # which is none before it is entered
        with pytest.raises(ConfigError, match="device: expected a GPU, or SIMULATED within SimulatedDevice"):
            count_host_syncs(lambda: None, device)


def test_the_simulated_device_refuses_what_a_gpu_refuses(simulated: None):
    x = torch.ones(3, device=SIMULATED)
    assert x.device == SIMULATED
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="use Tensor.cpu"):
        x.numpy()
    assert (x + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]


def test_tensors_of_all_kinds_come_to_the_host_in_one_copy(simulated: None):
    given = [torch.tensor(True), torch.rand(3, 0), torch.rand(2, 3).double(), torch.arange(5), torch.rand(3).half()]
    on_device = [x.to(SIMULATED) for x in given]
    found: list[Tensor] = []
    assert total(count_host_syncs(lambda: found.extend(to_host(*on_device)), SIMULATED)) == 1
    for expected, actual in zip(given, found, strict=True):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


def test_what_the_host_made_goes_to_the_device_without_a_wait(simulated: None):
    x = torch.arange(3)
    assert count_host_syncs(lambda: to_device(x, SIMULATED), SIMULATED) == []
    assert to_device(x, SIMULATED).device == SIMULATED
    assert to_device(x, torch.device("cpu")) is x


def test_targets_are_packed(simulated: None):
    given = [Target(torch.arange(n), torch.rand(n, 4), 7 * n, (n, 9)) for n in (2, 0, 3)]
    batch = TargetBatch.from_targets(given)
    for expected, actual in zip(given, batch.items, strict=True):
        assert torch.equal(actual.labels, expected.labels)
        assert torch.equal(actual.boxes, expected.boxes)
        assert (actual.image_id, actual.original_size) == (expected.image_id, expected.original_size)
    labels, boxes, real = batch.padded(4)
    assert real.sum(1).tolist() == [2, 0, 3]
    assert torch.equal(boxes[real], batch.boxes)
    assert labels.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 2, 0]]
    locked = batch.pin_memory()
    with HostSyncCounter(SIMULATED) as counter:
        locked.to(SIMULATED, non_blocking=True)
    assert (total(counter.syncs), total(counter.copies)) == (0, 2)


@needs_gpu
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_gpu_is_waited_for_only_where_results_are_read(monkeypatch: pytest.MonkeyPatch, system: str):
    """PyTorch itself raises if anything else waits for it; the counter finds the same as on the simulated device."""
    from litedetr.engine import train_step

    device = torch.device("cuda", 0)
    step, batches = build_step(system, device), [batch_of(4), batch_of(4)]
    step(0, batches)  # kernels are compiled, and their tables copied
    assert total(count_host_syncs(lambda: step(1, batches), device)) == 3

    def reading(*tensors: Tensor) -> list[Tensor]:
        torch.cuda.set_sync_debug_mode("default")
        found = to_host(*tensors)
        torch.cuda.set_sync_debug_mode("error")
        return found

    for module in (matcher, train_step):
        monkeypatch.setattr(module, "to_host", reading)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(2, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
