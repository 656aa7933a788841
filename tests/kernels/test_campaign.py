"""Many calls in a time: which is tuned first, what is told, and what a run that is killed leaves. Times are made up."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from triton.runtime.errors import OutOfResources

from litedetr.kernels.bench import campaign as module
from litedetr.kernels.bench import tuning
from litedetr.kernels.bench.campaign import Campaign
from litedetr.kernels.bench.cuda_gpu import NotCapturedError
from litedetr.kernels.bench.jobs import Job, Untuned
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import Launch, Shape, read_entries, rule

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = Workload(
    "key_aware_shared", torch.float32, None, num_queries=4, shapes=((4, 4), (2, 2)), heads=1, channels=8, points=2
)
OTHER = replace(SMALL, num_queries=16)
FEW = [Launch(2, 1), Launch(4, 1)]


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "candidates", lambda shape: [rule(shape), *FEW])


def campaign(times: list[float], kept: list, **rest) -> Campaign:
    numbers = iter(times)
    return Campaign(DEVICE, lambda call: next(numbers), kept.append, **rest)


def test_the_most_valuable_is_tuned_first():
    """By precision; then by samples, passes and calls."""
    half = replace(SMALL, dtype=torch.bfloat16)
    jobs = [Job(SMALL, "forward", 99), Job(half, "forward"), Job(half, "backward"), Job(half, "forward", 6)]
    jobs += [Job(replace(half, num_queries=40), "forward"), Job(replace(half, dtype=torch.float16), "backward", 99)]
    ranked = sorted(jobs, key=lambda job: job.rank)
    assert [(job.workload.dtype, job.pass_name, job.calls, job.workload.queries) for job in ranked] == [
        (torch.bfloat16, "forward", 1, 40),
        (torch.bfloat16, "forward", 6, 4),
        (torch.bfloat16, "backward", 1, 4),
        (torch.bfloat16, "forward", 1, 4),
        (torch.float16, "backward", 99, 4),
        (torch.float32, "forward", 99, 4),
    ]


def test_each_best_is_kept_at_once(few_candidates: None):
    kept = []
    for outcome in campaign([3.0, 1.0, 2.0], kept).tune_all([Job(SMALL, "forward")]):
        if isinstance(outcome[1], tuning.Tuned):
            assert kept[-1] is outcome[1]
    assert [found.best.milliseconds for found in kept] == [3.0, 1.0]


def test_when_the_time_is_up_the_rest_is_named(few_candidates: None, monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    kept, jobs = [], [Job(SMALL, "forward"), Job(OTHER, "forward"), Job(SMALL, "backward")]
    untuned = [x for x in campaign([3.0, 1.0], kept, deadline=5.0).tune_all(jobs) if isinstance(x, Untuned)]
    assert [(x.job, x.reason) for x in untuned] == [
        (jobs[0], "the time was up after 2 launches"),
        (jobs[1], "the time was up"),
        (jobs[2], "the time was up"),
    ]
    assert [found.best.launch for found in kept] == [rule(Shape.of("forward", SMALL.inputs("meta"))), FEW[0]]


ERRORS = [RuntimeError("an error\nmore"), NotCapturedError("an error"), OutOfResources(9, 8, "registers")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_job_that_fails_is_told_and_the_next_one_tuned(error: Exception, few_candidates: None):
    times = iter([3.0, error, 3.0, 2.0, 1.0])

    def timer(call):
        found = next(times)
        if isinstance(found, Exception):
            raise found
        return found

    kept, jobs = [], [Job(SMALL, "forward"), Job(OTHER, "forward")]
    untuned = [x for x in Campaign(DEVICE, timer, kept.append).tune_all(jobs) if isinstance(x, Untuned)]
    assert untuned == [Untuned(jobs[0], str(error).partition("\n")[0])]
    assert [found.best.milliseconds for found in kept] == [3.0, 3.0, 2.0, 1.0]


def test_launches_of_an_earlier_run_are_known(few_candidates: None):
    kept, shape = [], Shape.of("forward", SMALL.inputs("meta"))
    list(campaign([3.0, 2.0, 1.0], kept, known={shape: FEW[1]}).tune_all([Job(SMALL, "forward")]))
    assert [found.best.launch for found in kept] == [FEW[1], FEW[0]]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from litedetr.kernels.bench import tuning
from litedetr.kernels.bench.campaign import Campaign
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.fused.launch import Launch, rule
from litedetr.kernels.bench.workloads import Workload

work = Workload("key_aware_shared", torch.float32, None, num_queries=4, shapes=((4, 4),), heads=1, channels=8, points=2)
tuning.candidates = lambda shape: [rule(shape), Launch(2, 1), Launch(4, 1)]
times = iter([3.0, 2.0, None])

def timer(call):
    found = next(times)
    if found is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

keep = lambda found: tuning.save([found], "a gpu", Path(sys.argv[1]))
list(Campaign(torch.device("cpu"), timer, keep).tune_all([Job(work, "forward")]))
"""


def test_a_killed_run_leaves_the_best_so_far_in_a_whole_file(tmp_path: Path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=environment, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    (path,) = tmp_path.iterdir()
    (entry,) = read_entries(path).values()
    assert (entry["launch"]["block_queries"], entry["milliseconds"], entry["rule_milliseconds"]) == (2, 2.0, 3.0)
    assert json.loads(path.read_text())["gpu"] == "a gpu"
