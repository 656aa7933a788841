"""Choosing, measuring and keeping launches; times are made up, checks are real (in the interpreter without a GPU)."""

import json
from dataclasses import replace

import pytest
import torch
from triton.runtime.errors import OutOfResources

from litedetr.kernels.bench import tuning
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.resources import walk
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused import call, launch
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.launch import Launch, Segments, Shape, choose, given, rule
from litedetr.kernels.fused.limits import MOST_BLOCK, check_limits
from litedetr.kernels.fused.sizes import Sizes
from litedetr.kernels.inputs import Saved

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = Workload("key_aware_shared", torch.float32, (1, 2), shapes=((4, 4), (2, 2)), heads=1, channels=8, points=2)
FEW = [Launch(2, 1), Launch(4, 1)]
SHAPE = Shape("forward", "key_aware_shared", "bfloat16", 8, 32, 4, 4, 8192)


@pytest.fixture
def few_candidates(monkeypatch):
    monkeypatch.setattr(tuning, "candidates", lambda shape: [rule(shape), *FEW])


def times(milliseconds):
    """A timer that runs each call once and gives the next of the numbers."""
    numbers = iter(milliseconds)

    def time(call):
        call()
        return next(numbers)

    return time


def trials_and_results(outcomes):
    outcomes = list(outcomes)
    return [[x for x in outcomes if isinstance(x, kind)] for kind in (tuning.Trial, tuning.Tuned)]


@pytest.fixture
def no_variants(monkeypatch):
    monkeypatch.setattr(tuning, "variants", lambda *_: [])


@pytest.mark.parametrize("pass_name", ["forward", "backward"])
def test_the_fastest_is_found(pass_name, few_candidates, no_variants):
    trials, results = trials_and_results(tuning.tune(Job(SMALL, pass_name), DEVICE, times([3.0, 1.0, 2.0])))
    assert [trial.launch for trial in trials[1:]] == FEW
    assert all(trial.error < 1e-5 for trial in trials)
    assert [result.best.milliseconds for result in results] == [3.0, 1.0]  # each as soon as it is the best
    assert results[-1].best.launch == FEW[0]
    assert results[-1].by_rule.milliseconds == 3.0


def test_segments_are_tuned(no_variants, monkeypatch):
    """A wrong sum would be an error."""
    few = [Segments(64, 2), Segments(32, 4, patch_samples=1000)]
    monkeypatch.setattr(tuning, "candidates", lambda shape: [rule(shape), *few])
    trials, results = trials_and_results(tuning.tune(Job(SMALL, "segments"), DEVICE, times([3.0, 2.0, 1.0])))
    assert [trial.launch for trial in trials[1:]] == few
    assert all(trial.error < 1e-5 for trial in trials)
    assert results[-1].best.launch == few[1]


def test_tiles_of_the_fastest_are_tried(few_candidates):
    found = tuning.tune(Job(SMALL, "forward"), DEVICE, times([3.0, 2.0, 1.0, 0.5, 0.7, 0.9]))
    trials, results = trials_and_results(found)
    assert {trial.launch.tile_height for trial in trials[3:]} == {2}
    assert results[-1].best.launch == replace(FEW[1], tile_height=2)


def test_stages_that_help_the_rule_are_tried_on_the_fastest(monkeypatch):
    def few(shape):
        return [rule(shape), replace(rule(shape), num_stages=2), replace(rule(shape), num_stages=4), FEW[0]]

    monkeypatch.setattr(tuning, "candidates", few)
    workload = replace(SMALL, query_levels=None, num_queries=4)  # no grid, no tiles
    trials, results = trials_and_results(
        tuning.tune(Job(workload, "forward"), DEVICE, times([3.0, 4.0, 2.0, 1.0, 0.5]))
    )
    assert trials[-1].launch == results[-1].best.launch == replace(FEW[0], num_stages=4)
    trials, _ = trials_and_results(tuning.tune(Job(workload, "forward"), DEVICE, times([3.0, 4.0, 5.0, 1.0])))
    assert len(trials) == 4  # none of them helped


def test_candidates_are_distinct_and_the_rule_is_the_first():
    for pass_name in ("forward", "backward", "segments"):
        shape = replace(SHAPE, pass_name=pass_name)
        found = tuning.candidates(shape)
        assert found[0] == rule(shape)
        assert [item.num_stages for item in found[1:4]] == [1, 2, 4]
        assert len(set(found)) == len(found) > 20


@pytest.mark.parametrize(("dtype", "fewest"), [("bfloat16", 16), ("float32", 16), ("float64", 4)])
def test_segments_have_as_many_samples_as_a_product_takes(dtype, fewest):
    assert min(item.samples for item in tuning.candidates(replace(SHAPE, pass_name="segments", dtype=dtype))) == fewest


def test_what_was_known_is_tried_before_there_is_a_result(few_candidates, no_variants):
    """Or a run that is killed would have replaced it by something slower."""
    outcomes = list(tuning.tune(Job(SMALL, "forward"), DEVICE, times([3.0, 1.0, 2.0]), known=FEW[1]))
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [tuning.Trial, tuning.Trial, tuning.Tuned, tuning.Trial]
    assert (outcomes[1].launch, outcomes[2].best.launch) == (FEW[1], FEW[1])


def test_what_is_left_out_says_why(few_candidates, no_variants):
    trials, results = trials_and_results(
        tuning.tune(Job(SMALL, "forward"), DEVICE, times([3.0, 2.0]), prepare=lambda launches: {launches[1]: "spills"})
    )
    assert [(trial.milliseconds, trial.reason) for trial in trials] == [(3.0, ""), (None, "spills"), (2.0, "")]
    assert results[-1].best.launch == FEW[1]
    with pytest.raises(RuntimeError, match="the rule's launch .* does not run: why"):
        list(tuning.tune(Job(SMALL, "forward"), DEVICE, times([]), prepare=lambda launches: {launches[0]: "why"}))


def launches_first(fused, inputs) -> bool:
    """Whether a backend launches the forward pass as the first of FEW."""
    return fused.launches(Shape.of("forward", inputs), DEVICE) == FEW[0]


def test_what_does_not_fit_the_gpu_says_why(few_candidates, no_variants, monkeypatch):
    right = FusedBackend.forward

    def too_large_for_the_first(self, inputs, deterministic):
        if launches_first(self, inputs):
            raise OutOfResources(300_000, 232_448, "shared memory")
        return right(self, inputs, deterministic)

    monkeypatch.setattr(FusedBackend, "forward", too_large_for_the_first)
    trials, _ = trials_and_results(tuning.tune(Job(SMALL, "forward"), DEVICE, times([2.0, 1.0])))
    assert [trial.milliseconds for trial in trials] == [2.0, None, 1.0]
    assert "shared memory" in trials[1].reason


def test_a_wrong_launch_is_not_timed(few_candidates, no_variants, monkeypatch):
    right = FusedBackend.forward

    def wrong_for_the_first(self, inputs, deterministic):
        saved = right(self, inputs, deterministic)
        if launches_first(self, inputs):
            saved.out[0, 0] += 1
        return saved

    monkeypatch.setattr(FusedBackend, "forward", wrong_for_the_first)
    trials, results = trials_and_results(tuning.tune(Job(SMALL, "forward"), DEVICE, times([2.0, 1.0])))
    assert [trial.milliseconds for trial in trials] == [2.0, None, 1.0]
    assert trials[1].error > 0.01
    assert results[-1].best.launch == FEW[1]


def test_a_wrong_rule_is_an_error(few_candidates, monkeypatch):
    monkeypatch.setitem(tuning.TOLERANCE, torch.float32, 0.0)
    with pytest.raises(RuntimeError, match="the rule's launch .* errs by"):
        list(tuning.tune(Job(SMALL, "forward"), DEVICE, times([])))


def result_of(best, shape=SHAPE):
    return tuning.Tuned(shape, tuning.Trial(best, 1e-3, 0.5), tuning.Trial(rule(shape), 1e-3, 1.0))


@pytest.fixture
def fake_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(launch, "TUNED", tmp_path)
    launch.tuned.cache_clear()
    yield torch.device("cuda", 0)
    launch.tuned.cache_clear()


def test_what_was_saved_is_launched(fake_gpu, tmp_path):
    assert choose(SHAPE, fake_gpu) == rule(SHAPE)
    best = Launch(32, 8, tile_height=4)
    path = tuning.save([result_of(best)], "NVIDIA H100 80GB HBM3")
    assert path == tmp_path / "nvidia-h100-80gb-hbm3.json"
    assert choose(SHAPE, fake_gpu) == best
    other = replace(SHAPE, queries=1024)
    assert choose(other, fake_gpu) == rule(other)


def test_saving_keeps_other_shapes(fake_gpu):
    other = replace(SHAPE, pass_name="backward")
    tuning.save([result_of(Launch(32, 8))], "NVIDIA H100 80GB HBM3")
    tuning.save([result_of(Launch(8, 4), other)], "NVIDIA H100 80GB HBM3")
    assert choose(SHAPE, fake_gpu) == Launch(32, 8)
    assert choose(other, fake_gpu) == Launch(8, 4)


def test_tuned_segments_are_launched(fake_gpu):
    shape, best = replace(SHAPE, pass_name="segments"), Segments(8, 4, 80, max_registers=64, num_stages=2)
    assert choose(shape, fake_gpu) == Segments(32, 1)
    assert choose(replace(shape, dtype="float32", channels=128), fake_gpu) == Segments(16, 4)
    tuning.save([result_of(best, shape), result_of(Launch(32, 8))], "NVIDIA H100 80GB HBM3")
    assert (choose(shape, fake_gpu), choose(SHAPE, fake_gpu)) == (best, Launch(32, 8))


def test_files_of_earlier_versions_are_read(fake_gpu):
    """In which scores and passes have other names."""
    path = tuning.save([result_of(Launch(64, 2))], "NVIDIA H100 80GB HBM3")
    content = json.loads(path.read_text())
    shape = content["entries"][0]["shape"]
    content["entries"][0]["shape"] = {"run": shape.pop("pass_name")} | shape | {"score": "shared"}
    path.write_text(json.dumps(content))
    launch.tuned.cache_clear()
    assert choose(SHAPE, fake_gpu) == Launch(64, 2)


def test_segments_of_earlier_versions_are_left_out(fake_gpu):
    """They were launches of another kernel."""
    shape = replace(SHAPE, pass_name="segments")
    path = tuning.save([result_of(Segments(8, 2), shape), result_of(Launch(64, 2))], "NVIDIA H100 80GB HBM3")
    content = json.loads(path.read_text())
    content["entries"][0]["launch"] = {"tokens": 4, "samples": 8, "num_warps": 4}
    path.write_text(json.dumps(content))
    launch.tuned.cache_clear()
    assert (choose(shape, fake_gpu), choose(SHAPE, fake_gpu)) == (rule(shape), Launch(64, 2))


def test_another_version_of_triton_counts_for_nothing(fake_gpu):
    path = tuning.save([result_of(Launch(64, 2))], "NVIDIA H100 80GB HBM3")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"triton": "0.0"}))
    launch.tuned.cache_clear()
    assert choose(SHAPE, fake_gpu) == rule(SHAPE)


def test_a_failed_write_leaves_the_old_file(fake_gpu, monkeypatch):
    path = tuning.save([result_of(Launch(32, 8))], "NVIDIA H100 80GB HBM3")
    before = path.read_text()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(tuning.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        tuning.save([result_of(Launch(8, 4))], "NVIDIA H100 80GB HBM3")
    assert path.read_text() == before


@pytest.mark.parametrize("pass_name", ["forward", "backward"])
@pytest.mark.parametrize(("points", "channels"), [(1, 1), (4, 32), (3, 24), (8, 64), (16, 256)])
def test_the_rule_holds_few_elements_a_thread(pass_name, points, channels):
    shape = replace(SHAPE, pass_name=pass_name, points=points, channels=channels)
    found = rule(shape)
    per_thread = found.block_queries * 2 ** (channels - 1).bit_length() / (32 * found.num_warps)
    assert per_thread <= 8 or found.block_queries == 1


@pytest.mark.parametrize(
    ("pass_name", "score", "dtype", "expected"),
    [
        ("forward", "key_aware_shared", "bfloat16", Launch(32, 4)),
        ("backward", "key_aware_shared", "float32", Launch(32, 4)),
        ("backward", "key_aware", "bfloat16", Launch(32, 4)),
        ("forward", "deformable", "float64", Launch(16, 4)),
    ],
)
def test_what_the_rule_gives(pass_name, score, dtype, expected):
    assert rule(replace(SHAPE, pass_name=pass_name, score=score, dtype=dtype)) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Launch(32, 4, max_registers=64)),
        ({"levels": 1}, Launch(32, 4)),
        ({"channels": 33}, Launch(8, 4)),
        ({"channels": 33, "dtype": "float32"}, Launch(8, 4)),
    ],
)
def test_odd_channels_and_one_level_have_more_registers(changed, expected):
    usual = {"pass_name": "forward", "score": "deformable", "dtype": "bfloat16", "channels": 32, "levels": 4}
    assert rule(replace(SHAPE, **usual | changed)) == expected


def test_no_candidate_is_larger_than_a_launch_may_be():
    inputs = SMALL.inputs("meta")
    tile = 8  # D of SMALL
    for queries in (1, 64, 8192):
        for candidate in tuning.candidates(replace(SHAPE, points=2, channels=8, queries=queries)):
            assert candidate.block_queries * tile <= MOST_BLOCK
            check_limits(Sizes.of(inputs), candidate)


@pytest.mark.parametrize("pass_name", ["forward", "backward"])
def test_a_rule_without_bounds_is_an_error_before_anything_is_compiled(pass_name, monkeypatch):
    """A constant set wrongly: compilers would not come to an end."""
    monkeypatch.setattr(launch, "ELEMENTS_PER_THREAD", 4096)
    workload = replace(SMALL, query_levels=None, num_queries=4096)
    inputs = workload.inputs("meta")
    saved = Saved(*(torch.empty(0, device="meta") for _ in range(2)))
    fused = FusedBackend(given())
    passes = {
        "forward": lambda: fused.forward(inputs, False),
        "backward": lambda: fused.backward(inputs, saved, saved.out, False, False),
    }
    with pytest.raises(ValueError, match="^block_queries: expected at most 2048 of 8 channels, got 4096"):
        passes[pass_name]()


@pytest.mark.parametrize("bad", [{"block_queries": 3}, {"num_warps": 0}, {"tile_height": 32}, {"num_stages": 0}])
def test_impossible_launches_are_named(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}: expected"):
        Launch(**{"block_queries": 16, "num_warps": 4} | bad)


@pytest.mark.parametrize("bad", [{"samples": 3}, {"num_warps": 0}, {"patch_samples": 0}, {"num_stages": 0}])
def test_impossible_segments_are_named(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}: expected"):
        Segments(**{"samples": 8, "num_warps": 4} | bad)


def test_options_reach_triton_unless_they_are_left_to_it():
    seen = []
    launches = given(forward=Launch(2, 1, num_stages=3))
    FusedBackend(launches, lambda *_, **options: seen.append(options)).forward(SMALL.inputs("meta"), False)
    assert (seen[0]["num_stages"], seen[0]["maxnreg"]) == (3, None)
    segments = Segments(16, 8, max_registers=72, num_stages=5)
    walk(Job(SMALL, "segments"), segments, lambda *_, **options: seen.append(options))
    names = ("PART", "BLOCK_SAMPLES", "num_warps", "maxnreg", "num_stages")
    assert [tuple(options[name] for name in names) for options in seen[1:]] == [(i, 16, 8, 72, 5) for i in range(4)]

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: seen.append(options)

    for stages in (3, None):
        call.launch_kernel(Kernel(), (1, 1, 1), torch.ones(1), num_stages=stages, maxnreg=None, num_warps=4)
    assert seen[5:] == [{"num_stages": 3, "num_warps": 4}, {"num_warps": 4}]
