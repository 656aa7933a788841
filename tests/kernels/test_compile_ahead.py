"""Launches compiled ahead of time, in other processes and without a GPU, and what is left out after that."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from litedetr.kernels.bench import compile_ahead, tuning
from litedetr.kernels.bench.campaign import Campaign
from litedetr.kernels.bench.compile_ahead import Ahead, Compiled, Compilers, Task
from litedetr.kernels.bench.jobs import Job, Untuned
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import Launch, Shape, rule

TRITON = tuple(map(int, triton.__version__.split(".")[:2]))
TARGET = GPUTarget("cuda", 90, 32)
SMALL = Workload("key_aware_shared", torch.bfloat16, (1, 2), shapes=((4, 4), (2, 2)), heads=1, channels=8, points=2)
OTHER = replace(SMALL, num_queries=16, query_levels=None)
RULE = rule(Shape.of("forward", SMALL.inputs("meta")))
FEW = [RULE, replace(RULE, num_stages=2), Launch(2, 1), Launch(4, 1)]

# In processes of their own: the interpreter, which other tests need, has no compiler. The second one has a driver that
# launches nothing, and tensors with memory.
COMPILE = """
import json
import torch
from triton.backends.compiler import GPUTarget
from litedetr.kernels.bench.compile_ahead import Compiled, Compilers, Task
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.fused.launch import Launch, Segments
from litedetr.kernels.bench.workloads import Workload

work = Workload("key_aware_shared", torch.bfloat16, (1, 2), shapes=((4, 4), (2, 2)), heads=1, channels=8, points=2)
wrong = Launch(2**13, 4)  # too many elements
forward = Job(work, "forward")
tasks = [Task(forward, wrong), Task(forward, Launch(4, 1)), Task(Job(work, "backward"), Launch(4, 1))]
tasks += [Task(Job(work, "segments"), Segments(16, 1, max_registers=128)), Task(forward, Launch(4, 1, num_stages=2))]
with Compilers(GPUTarget("cuda", 90, 32), 1, 100) as compilers:
    found = [future.result() for future in [compilers.submit(0, task) for task in tasks]]
print(json.dumps([x if isinstance(x, str) else [x.fingerprint, x.spilled] for x in found]))
"""
LAUNCH = """
import inspect
import json
import os
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.launch import Launch, Segments, given
from litedetr.kernels.bench.workloads import Workload

RESULTS = 5 if "n_max_threads" in inspect.getsource(CompiledKernel._init_handles) else 4  # fewer in Triton 3.2

class Utils:
    def load_binary(self, *_): return (1, 2, 96, 0, 1024)[:RESULTS]
    def get_device_properties(self, _): return {"max_shared_mem": 232448, "max_num_regs": 65536, "warpSize": 32}
    def __getattr__(self, _): return lambda *a, **k: None

class Driver:
    utils, launches = Utils(), 0
    def get_current_device(self): return 0
    def get_current_stream(self, _): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def launcher_cls(self, *_): return self.count
    def count(self, *_, **__): Driver.launches += 1

def launch(kernel, grid, *arguments, **options):
    options = {name: value for name, value in options.items() if value is not None}
    kernel[grid](*arguments, **options)

driver.set_active(Driver())
work = Workload("key_aware_shared", torch.bfloat16, (1, 2), shapes=((4, 4), (2, 2)), heads=1, channels=8, points=2)
inputs = work.inputs("cpu").map(lambda x: x.detach())
before = set(os.listdir(os.environ["TRITON_CACHE_DIR"]))
blocks, segments = Launch(4, 1), Segments(16, 1, max_registers=128)
fused = FusedBackend(given(forward=blocks, backward=blocks, segments=segments), launch)
saved = fused.forward(inputs, False)
fused.backward(inputs, saved, torch.randn_like(saved.out), False, False)
new = [set(os.listdir(os.environ["TRITON_CACHE_DIR"])) - before]
fused.backward(inputs, saved, torch.randn_like(saved.out), True, False)
new.append(set(os.listdir(os.environ["TRITON_CACHE_DIR"])) - before)
FusedBackend(given(forward=Launch(8, 1)), launch).forward(inputs, False)
new.append(set(os.listdir(os.environ["TRITON_CACHE_DIR"])) - before)
print(json.dumps([Driver.launches, *map(len, new)]))
"""


def output(program: str, cache) -> list:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_launch_finds_what_was_compiled_ahead(tmp_path):
    """In Triton's cache on disk, under its own key. What fails says why, and the process goes on."""
    wrong, forward, backward, segments, staged = output(COMPILE, tmp_path)
    assert wrong.startswith("ValueError: block_queries: expected at most 2048")
    assert len({forward[0], backward[0], segments[0]}) == 3
    assert staged[0] == forward[0] or TRITON < (3, 6)  # which finds nothing to pipeline
    assert forward[1] == 0
    # of the deterministic pass the backward kernel is not a segments launch's to compile; and Launch(8, 1) was not
    assert output(LAUNCH, tmp_path) == [8, 0, 1, 2]


class FakeProcess:
    """Answers with what a task's workload says."""

    begun, ended = 0, 0

    def __init__(self, target: GPUTarget) -> None:
        FakeProcess.begun += 1
        self.is_alive = True

    def receive(self, seconds: float) -> bool:
        return True

    def ask(self, task, seconds: float):
        assert self.is_alive
        if isinstance(task, Exception):
            raise task
        return task

    def end(self) -> None:
        FakeProcess.ended += self.is_alive
        self.is_alive = False


@pytest.fixture
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    monkeypatch.setattr(compile_ahead, "Process", FakeProcess)
    FakeProcess.begun = FakeProcess.ended = 0
    return FakeProcess


def test_what_hangs_or_dies_is_told_and_compiling_goes_on(fake_processes: type[FakeProcess]):
    tasks = ["one", TimeoutError(), "two", EOFError("closed"), "three"]
    with Compilers(TARGET, 1, 7) as compilers:
        found = [future.result(10) for future in [compilers.submit(0, task) for task in tasks]]
    assert [found[i] for i in (0, 2, 4)] == ["one", "two", "three"]
    assert found[1] == "not compiled within 7 s"
    assert found[3] == "its compiler failed: EOFError('closed')"
    assert (fake_processes.begun, fake_processes.ended) == (3, 3)


def test_the_most_urgent_is_compiled_first(fake_processes: type[FakeProcess], monkeypatch: pytest.MonkeyPatch):
    order = []
    monkeypatch.setattr(FakeProcess, "ask", lambda self, task, seconds: order.append(task))
    compilers = Compilers(TARGET, 1, 7)
    futures = [compilers.submit(urgency, task) for urgency, task in [(1, "c"), (0, "a"), (1, "d"), (0, "b")]]
    with compilers:
        for future in futures:
            future.result(10)
    assert order == ["a", "b", "c", "d"]


def compilers_that_find(results: dict[Launch, Compiled | str | None]):
    """None: never."""
    tasks = []

    def submit(urgency: int, task: Task) -> Future:
        tasks.append((urgency, task))
        future = Future()
        if (found := results.get(task.launch, Compiled(str(task.launch), 0))) is not None:
            future.set_result(found)
        return future

    return SimpleNamespace(submit=submit, tasks=tasks)


def test_what_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """Failures, twins of what is tried, and what spills, be it not the rule's."""
    monkeypatch.setattr(compile_ahead, "candidates", lambda shape: FEW)
    results = {
        RULE: Compiled("a", 400),
        FEW[1]: Compiled("a", 400),
        FEW[2]: Compiled("b", 400),
        FEW[3]: "failed",
    }
    compilers = compilers_that_find(results)
    found = Ahead(compilers, [Job(SMALL, "forward"), Job(OTHER, "forward"), Job(OTHER, "backward")]).prepare(0, FEW)
    assert found == {FEW[1]: "the same program as with num_stages=None", FEW[2]: "spills 400 bytes", FEW[3]: "failed"}
    # this job's, then the next one's while this one is timed
    assert [(urgency, task.job.workload) for urgency, task in compilers.tasks] == [(0, SMALL)] * 4 + [(1, OTHER)] * 4


def test_tiles_are_no_twins():
    """They are one program with another order of the queries."""
    tiles = [replace(RULE, tile_height=height) for height in (2, 4)]
    compilers = compilers_that_find(dict.fromkeys(tiles, Compiled("a", 0)))
    assert Ahead(compilers, [Job(SMALL, "forward")]).prepare(0, tiles) == {}


def test_what_is_compiled_is_asked_for_once(monkeypatch: pytest.MonkeyPatch):
    compilers = compilers_that_find({})
    monkeypatch.setattr(compile_ahead, "candidates", lambda shape: FEW)
    found = Ahead(compilers, [Job(SMALL, "forward"), Job(OTHER, "forward")])
    found.prepare(0, FEW)
    found.prepare(1, FEW)
    assert len(compilers.tasks) == 8


def test_nothing_waits_beyond_the_deadline():
    compilers = compilers_that_find({FEW[2]: None})
    found = Ahead(compilers, [Job(SMALL, "forward")], deadline=0.0).prepare(0, FEW)
    assert found == {FEW[2]: "not compiled before the time was up"}


def test_without_a_twin_all_candidates_are_tried():
    shape = Shape.of("forward", SMALL.inputs("meta"))
    launches = tuning.candidates(shape)
    assert Ahead(compilers_that_find({}), [Job(SMALL, "forward")]).prepare(0, launches) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="tunes the GPU")
def test_the_gpu_is_tuned_with_what_was_compiled_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Whole, at a small size; launches add no program to Triton's cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "candidates", lambda shape: FEW)
    workload = Workload("key_aware_shared", torch.bfloat16, (1, 2), channels=8, points=2)
    device, kept = torch.device("cuda", torch.cuda.current_device()), []
    with Compilers(driver.active.get_current_target(), 2, 100) as compilers:
        found = Ahead(compilers, [Job(workload, "forward")])
        campaign = Campaign(device, tuning.replays(device, 5), kept.append, ahead=found)
        outcomes = list(campaign.tune_all([Job(workload, "forward")]))
    assert not any(isinstance(outcome, Untuned) for outcome in outcomes)
    assert kept[-1].best.milliseconds > 0
    programs = {replace(item, tile_height=min(item.tile_height, 2)) for _, item in found._futures}
    assert len(list(tmp_path.rglob("*.cubin"))) == len(programs)  # tiles of any height are one program
