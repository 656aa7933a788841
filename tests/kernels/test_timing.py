"""Times of a GPU: the arithmetic and every call of torch.cuda, on one that only keeps time."""

import os
import weakref
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import FakeCuda

from litedetr.kernels.bench import comparison
from litedetr.kernels.bench.ceilings import Ceilings
from litedetr.kernels.bench.comparison import Comparison, Row, measure
from litedetr.kernels.bench.cuda_gpu import CudaGpu, NotCapturedError
from litedetr.kernels.bench.peers import PEERS
from litedetr.kernels.bench.side_by_side import forward_step, side_by_side, training_step
from litedetr.kernels.bench.timing import Timing, time_on_gpu, warm_milliseconds
from litedetr.kernels.bench.tuning import replays
from litedetr.kernels.bench.workloads import Workload
from litedetr.tools.benchmark.time_rows import KERNEL_HEADER, kernel_line

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = Workload("key_aware_shared", torch.float32, (1, 2), shapes=((4, 4), (2, 2)), heads=1, channels=8, points=2)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    found = FakeCuda()
    found.install(monkeypatch)
    return found


@pytest.fixture
def gpu(fake: FakeCuda) -> CudaGpu:
    return CudaGpu(CUDA, SimpleNamespace(zero_=fake.flush))


def test_a_kernel_behind_a_slow_host(fake: FakeCuda, gpu: CudaGpu):
    """50 us of a GPU, 80 with cold caches, behind 90 us of the host: each is told, and the flush is in none."""
    timing = time_on_gpu(lambda: fake.launch(50e-6, 90e-6, cold=80e-6), gpu, 20)
    assert timing.warm_ms == timing.milliseconds == pytest.approx(0.050, rel=0.01)
    assert timing.cold_ms == pytest.approx(0.080, rel=0.01)
    assert timing.eager_ms == pytest.approx(0.090, rel=0.01)
    assert timing.host_us == pytest.approx(90)
    assert (timing.timed, timing.note) == ("graph", "")


@pytest.mark.parametrize("seconds", [2e-6, 30e-3], ids=["short", "long"])
def test_launches_do_not_count(seconds: float, fake: FakeCuda, gpu: CudaGpu):
    """Of a short kernel many calls are in one graph; of a long one a single call."""
    timing = time_on_gpu(lambda: fake.launch(seconds, 1e-6), gpu, 20)
    assert timing.warm_ms == pytest.approx(seconds * 1e3, rel=0.05)
    assert timing.cold_ms == pytest.approx(seconds * 1e3, rel=0.05)


def test_no_event_waits_for_the_host(fake: FakeCuda, gpu: CudaGpu):
    """The first call on an idle GPU would be timed from before the host has enqueued it."""
    assert gpu.elapsed(lambda: fake.launch(100e-6, 10e-6), 1) == [pytest.approx(0.1)]


def test_odd_rounds_are_left_out():
    """A replay in ten is ten times as slow: medians do not see it."""

    def elapsed(call, rounds: int) -> list[float]:
        return [10.0 if i % 10 == 3 else 1.0 for i in range(rounds)]

    gpu = SimpleNamespace(elapsed=elapsed, capture=lambda body: body)
    assert warm_milliseconds(lambda: None, gpu, 100) == 1.0


def test_what_waits_is_timed_eagerly_and_says_why(fake: FakeCuda, gpu: CudaGpu):
    def step() -> None:
        fake.launch(50e-6, 10e-6)
        fake.wait()

    timing = time_on_gpu(step, gpu, 20)
    assert (timing.warm_ms, timing.cold_ms, timing.timed) == (None, None, "eager")
    assert timing.milliseconds == timing.eager_ms == pytest.approx(0.060, rel=0.1)
    assert timing.note == "eager only: called a synchronizing CUDA operation"
    assert fake.mode == 0  # as it was


def test_what_no_graph_can_hold_says_why(fake: FakeCuda, gpu: CudaGpu):
    """A wait that PyTorch's own check does not see."""

    def step() -> None:
        fake.launch(50e-6, 10e-6)
        if fake.captured is not None:
            fake.wait()

    assert time_on_gpu(step, gpu, 20).note == "eager only: operation not permitted when stream is capturing"
    with pytest.raises(NotCapturedError):
        warm_milliseconds(step, gpu, 20)
    assert fake.captured is None
    assert fake.stream is fake.main


def test_out_of_memory_is_no_reason_to_time_eagerly(fake: FakeCuda, gpu: CudaGpu):
    def step() -> None:
        if fake.captured is not None:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        time_on_gpu(step, gpu, 20)


def test_a_step_that_changes_things_is_never_captured(fake: FakeCuda, gpu: CudaGpu):
    def step() -> None:
        assert fake.captured is None
        fake.launch(5e-3, 1e-3)

    found = side_by_side({"x": step}, CUDA, 20, graphs=False, gpu=gpu)["x"]
    assert (found.warm_ms, found.note) == (None, "not repeatable in a graph")
    assert (found.eager_ms, found.host_us) == (pytest.approx(5, rel=0.01), pytest.approx(1000))


def test_a_long_step_is_enqueued_once_at_a_time(fake: FakeCuda, gpu: CudaGpu):
    """Else the queue would fill, and the host's time be the device's."""
    calls = []
    monitored = SimpleNamespace(
        **{name: getattr(gpu, name) for name in ("elapsed", "peak_mib")},
        now=lambda: (calls.append("now"), gpu.now())[1],
        synchronize=gpu.synchronize,
    )

    def step() -> None:
        calls.append("step")
        fake.launch(10e-3, 1e-3)

    time_on_gpu(step, monitored, 20, graphs=False)
    first = calls.index("now")
    assert calls[first : first + 3] == ["now", "step", "now"]


def test_peaks_are_of_a_warm_step(fake: FakeCuda, gpu: CudaGpu):
    def step() -> None:
        fake.memory[1] = fake.memory[0] + (3 << 20)

    assert gpu.peak_mib(step) == 3


def test_the_timer_of_the_tuner_replays(fake: FakeCuda):
    assert replays(CPU, 20)(lambda: fake.launch(50e-6, 90e-6, cold=80e-6)) == pytest.approx(0.050, rel=0.01)


def test_the_flush_is_larger_than_the_cache(fake: FakeCuda):
    assert CudaGpu.of(CPU).buffer.nbytes == 2 << 10


def test_ratios_compare_one_kind():
    ours, peer = Timing(4.0, 0.0, warm_ms=1.0), Timing(6.0, 0.0, note="why")
    assert (ours.milliseconds, peer.milliseconds) == (1.0, 6.0)
    assert ours.comparable(peer) == peer.comparable(ours) == "eager"
    assert ours.comparable(ours) == "graph"
    assert peer.by("eager") / ours.by("eager") == 1.5


@pytest.fixture(params=["reference"])
def timed_rows(request, fake: FakeCuda, gpu: CudaGpu, monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """Rows of ours and of peers that launch on the fake GPU; the host waits in the one that is named."""
    seconds = {"ours": 10e-6, "unfused": 30e-6, "reference": 20e-6}

    def costs(name: str, attend):
        def attend_and_launch(inputs, **settings):
            fake.launch(seconds[name], 40e-6, cold=2 * seconds[name])
            if name == request.param:
                fake.wait()
            return attend(inputs, **settings)

        return attend_and_launch

    def broken(inputs):
        raise TypeError("no such thing")

    monkeypatch.setattr(comparison, "attend", costs("ours", comparison.attend))
    for name in ("unfused", "reference"):
        monkeypatch.setitem(PEERS, name, costs(name, PEERS[name]))
    monkeypatch.setitem(PEERS, "compiled", broken)
    monkeypatch.setattr(
        comparison, "side_by_side", lambda steps, device, rounds: side_by_side(steps, CUDA, rounds, gpu=gpu)
    )
    how = Comparison(CPU, ("forward",), ("unfused", "reference", "compiled"), 1)
    found = list(measure([("few", SMALL)], how, Ceilings(1e9, None)))
    assert [text for text in found if isinstance(text, str)] == ["compiled fails: no such thing on few grid: not timed"]
    return {row.name: row for row in found if isinstance(row, Row)}


def test_rows_of_a_gpu(timed_rows: dict[str, Row]):
    ours, unfused, waits = (timed_rows[name] for name in ("ours", "unfused", "reference"))
    assert (ours.timed, unfused.timed, waits.timed) == ("graph", "graph", "eager")
    assert unfused.ratio == pytest.approx(3, rel=0.05)
    assert waits.ratio == pytest.approx(waits.eager_ms / ours.eager_ms)
    assert (waits.warm_ms, waits.cold_ms) == (None, None)
    assert "synchronizing" in waits.note
    assert ours.limit_share == pytest.approx(ours.limit_ms / ours.cold_ms)
    assert waits.limit_share == pytest.approx(waits.limit_ms / waits.eager_ms)
    assert 0 < ours.out_error < 1e-5
    assert 0 < ours.grad_error < 1e-4


def test_a_cold_time_that_is_lost_in_noise_is_the_warm_one(monkeypatch: pytest.MonkeyPatch):
    """Of a kernel of a microsecond beside a flush of many: the share is of no less than the warm time."""
    timing = Timing(0.05, 0.0, warm_ms=0.002, cold_ms=0.0, host_us=9.0)
    monkeypatch.setattr(comparison, "side_by_side", lambda steps, device, rounds: dict.fromkeys(steps, timing))
    (row,) = measure([("few", SMALL)], Comparison(CPU, ("forward",), (), 1), Ceilings(1e9, None))
    assert row.cold_ms == 0
    assert row.limit_share == pytest.approx(row.limit_ms / 0.002)


@pytest.mark.parametrize("timed_rows", ["ours"], indirect=True)
def test_rows_beside_eager_times_of_ours(timed_rows: dict[str, Row]):
    """A peer's replays are then not what its ratio is of."""
    ours, unfused = timed_rows["ours"], timed_rows["unfused"]
    assert (ours.timed, unfused.timed) == ("eager", "eager")
    assert unfused.warm_ms < unfused.eager_ms == unfused.milliseconds
    assert unfused.ratio == unfused.eager_ms / ours.eager_ms


def test_what_a_peer_that_fails_has_computed_is_gone_when_others_are_timed(monkeypatch: pytest.MonkeyPatch):
    """No CUDA graph holds a step if another graph of autograd begins at its leaves."""
    left = []

    def broken(inputs):
        out = PEERS["reference"](inputs)
        left.append(weakref.ref(out))
        raise TypeError("no such thing")

    monkeypatch.setitem(PEERS, "compiled", broken)
    how = Comparison(CPU, ("forward",), ("compiled",), 1)
    rows = (found for found in measure([("few", SMALL)], how, Ceilings(1e9, None)) if isinstance(found, Row))
    assert next(rows).name == "ours"
    assert [reference() for reference in left] == [None]


def test_rows_fill_their_columns(timed_rows: dict[str, Row]):
    for row in timed_rows.values():
        text = kernel_line(row)
        assert len(text.removesuffix(row.note).rstrip()) == len(KERNEL_HEADER)
        assert text.endswith(row.note)
    assert " - " in kernel_line(timed_rows["reference"])


def test_ceilings_of_a_gpu(fake: FakeCuda, gpu: CudaGpu, monkeypatch: pytest.MonkeyPatch):
    """The device's own figures, and products of each precision, which is put back."""
    precisions = []

    def product(left, right, out):
        precisions.append((left.dtype, torch.get_float32_matmul_precision()))
        fake.launch(1e-3, 1e-6)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr("litedetr.kernels.bench.ceilings.PRODUCT_SIDE", {"cuda": 16})
    monkeypatch.setattr("litedetr.kernels.bench.ceilings.COPY_BYTES", 1 << 10)
    monkeypatch.setattr("litedetr.kernels.bench.side_by_side.CudaGpu", SimpleNamespace(of=lambda device: gpu))
    for name in ("randn", "empty"):
        real = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, device=None, real=real, **rest: real(*size, **rest))
    monkeypatch.setattr(torch.Tensor, "copy_", lambda target, source: fake.launch(1e-6, 1e-6))
    before = torch.get_float32_matmul_precision()
    found = Ceilings.of(CUDA)
    assert found.bandwidth == pytest.approx(2 * 1024 / 1e-6, rel=0.05)
    assert found.l1 == 1e9 * 4 * 128
    assert found.products == {name: pytest.approx(2 * 16**3 / 1e-3, rel=0.01) for name in ("bf16", "tf32", "fp32")}
    assert set(precisions) == {(torch.bfloat16, "highest"), (torch.float32, "high"), (torch.float32, "highest")}
    assert torch.get_float32_matmul_precision() == before
    assert "TFLOP/s" in str(found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="replays CUDA graphs")
@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
def test_our_attention_is_captured(training: bool):
    from litedetr.kernels.functional import attend

    workload = Workload("key_aware_shared", torch.bfloat16, (1, 4))
    inputs = workload.inputs(CUDA)
    grad = torch.randn(1, workload.queries, 8 * 32, device=CUDA, dtype=torch.bfloat16)
    step = training_step(attend, inputs, grad) if training else forward_step(attend, inputs)
    found = side_by_side({"ours": step}, CUDA, 20)["ours"]
    assert found.note == ""
    assert min(found.warm_ms, found.cold_ms, found.eager_ms, found.host_us) > 0
    if "PYTEST_XDIST_WORKER" not in os.environ:  # else the GPU works for other processes too
        assert found.warm_ms <= found.eager_ms * 1.1
        assert found.warm_ms < found.cold_ms * 1.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="replays CUDA graphs")
def test_a_step_that_waits_is_not_captured():
    x = torch.ones(8, device=CUDA)
    found = side_by_side({"waits": lambda: x.sum().item(), "after": lambda: x + 1}, CUDA, 20)
    assert "synchronizing" in found["waits"].note
    assert found["after"].timed == "graph"
