"""Whole detectors side by side."""

import csv
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from engine_helpers import MODEL, run_config, train
from test_scripts import run

from litedetr.cli.compose import compose
from litedetr.engine.distributed import Ranks
from litedetr.kernels.bench.timing import Timing
from litedetr.settings import ConfigError, from_mapping
from litedetr.tools.benchmark.benchmark_config import ScaleConfig
from litedetr.tools.benchmark.model_plot import draw_models
from litedetr.tools.benchmark.model_rows import ModelRow, headline, model_table, rows_of
from litedetr.tools.benchmark.peers import peer
from litedetr.tools.benchmark.scale import ScaleRow, draw_scale, points, scale_table
from litedetr.tools.benchmark.timed_detectors import Conditions, TimedDetector, of_config
from litedetr.tools.flops.tables import Paper
from litedetr.tools.random_batch import RandomBatch

CONDITIONS = Conditions(RandomBatch((64, 96), 1, 2, 3, "fp32"), torch.device("cpu"))


def detector(name: str, gflops: float | None, **steps) -> TimedDetector:
    return TimedDetector(name, steps, gflops, 1.0)


def clock(times: dict[object, float], replays: dict[object, float] | None = None):
    """Times of the steps' own results, on a CPU; or beside them those of replays, of some."""

    def timing(result: object, graphs: bool) -> Timing:
        warm = (replays or {}).get(result) if graphs else None
        return Timing(times[result], 10.0, warm, note="" if warm or not replays else "why")

    return lambda steps, graphs: {name: timing(step(), graphs) for name, step in steps.items()}


def rows(runs=("forward", "training"), replays: dict[object, float] | None = None) -> list[ModelRow]:
    base = detector("base", 200.0, forward=lambda: "f", backbone=lambda: "b", training=lambda: "t")
    lite = detector("lite", 120.0, forward=lambda: "F", backbone=lambda: "b", training=lambda: "T")
    other = detector("other", None, forward=lambda: "o", backbone=lambda: "b")
    times = {"f": 1000.0, "F": 500.0, "o": 800.0, "b": 200.0, "t": 4000.0, "T": 1000.0}
    return list(rows_of([base, lite, other], runs, CONDITIONS.batch, clock(times, replays)))


def test_ratios():
    found = {(row.name, row.run): row for row in rows()}
    assert set(found) == {(n, r) for n in ("base", "lite") for r in ("forward", "training")} | {("other", "forward")}
    lite = found["lite", "forward"]
    assert (lite.ratio, lite.gflops_ratio, lite.rest_over_backbone, lite.images_per_second) == (0.5, 0.6, 1.5, 2.0)
    assert found["base", "forward"].ratio == 1
    assert (found["other", "forward"].ratio, found["other", "forward"].gflops_ratio) == (0.8, None)
    training = found["lite", "training"]
    assert (training.ratio, training.backbone_ms, training.rest_over_backbone) == (0.25, None, None)


def test_replays_are_compared_with_replays_only():
    """`other` has none: its ratio is of eager times. A training step is never replayed."""
    found = {(row.name, row.run): row for row in rows(replays={"f": 100.0, "F": 80.0, "b": 20.0, "t": 1.0, "T": 1.0})}
    base, lite, other = (found[name, "forward"] for name in ("base", "lite", "other"))
    assert (base.timed, lite.timed, other.timed) == ("graph", "graph", "eager")
    assert (lite.milliseconds, lite.graph_ms, lite.eager_ms, lite.ratio) == (80.0, 80.0, 500.0, 0.8)
    assert (lite.backbone_ms, lite.rest_over_backbone) == (20.0, 3.0)
    assert (other.milliseconds, other.graph_ms, other.ratio, other.backbone_ms) == (800.0, None, 0.8, 200.0)
    assert (found["lite", "training"].timed, found["lite", "training"].ratio) == ("eager", 0.25)
    assert "other, forward: why" in model_table(list(found.values()))


def test_the_question_is_answered_in_words():
    text = headline(rows())
    assert "forward: lite takes 0.50 times the time of base for 0.60 times the FLOPs" in text
    assert "training: lite takes 0.25 times the time of base for 0.60 times the FLOPs" in text
    assert "forward: other takes 0.80 times the time of base" in text
    assert "outside its backbone lite takes 1.50 times the backbone's time" in text


def test_a_table_and_a_picture(tmp_path: Path):
    table = model_table(rows())
    assert len(table.splitlines()) == 6
    assert all(len(line) == len(table.splitlines()[0]) for line in table.splitlines())
    draw_models([replace(row, ap=50.0) for row in rows()], "a machine", tmp_path / "models.png")
    assert (tmp_path / "models.png").stat().st_size > 10_000


def test_names_of_runs_are_drawn_as_they_are(tmp_path: Path):
    """No formula, and no letter without a shape, of which matplotlib would warn."""
    names = {"base": "$x$", "lite": "猫", "other": r"$\frac$"}
    named = [replace(row, name=names[row.name], gflops=None if row.name == "lite" else row.gflops) for row in rows()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw_models(named, "a machine", tmp_path / "models.png")
    assert caught == []


def test_steps_do_what_they_say():
    found = of_config("tiny", MODEL, CONDITIONS)
    assert found.steps["forward"]().shape == (1, 24, 6)  # 8 queries, 3 classes
    assert [tuple(level.values.shape[-2:]) for level in found.steps["backbone"]()] == [(2, 3)]
    first, second = found.steps["training"]().loss, found.steps["training"]().loss
    assert first != second  # the optimiser moved the weights
    assert found.gflops > 0


def test_systems_find_their_row_of_the_paper():
    paper = from_mapping(Paper, compose("paper"))
    assert paper.find(["model=dino_4scale"]).name == "R50 DINO"
    lite = paper.find(["model=lite_dino", "encoder=h3l1", "a=6", "b=1"])
    assert (lite.name, lite.ap) == ("R50 Lite-DINO H3L1-(6+1)x1", 50.2)
    assert paper.find(["model=lite_dino", "a=5"]) is None


@pytest.mark.skipif(find_spec("transformers") is None, reason="an optional extra")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["rt_detr", "deformable_detr"])
def test_peers_detect(name: str):
    found = peer(name, CONDITIONS)
    assert found.steps["forward"]().logits.shape[0] == 1
    assert found.steps["backbone"]()


def test_peers_need_their_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("litedetr.tools.benchmark.peers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"models\.peers: expected \[\] without the transformers library"):
        peer("rt_detr", CONDITIONS)


def test_a_trained_detector_by_the_script(tmp_path: Path, cache: Path):
    train(run_config(cache, schedule={"max_epochs": 1, "milestones": ()}), tmp_path / "foo", Ranks(torch.device("cpu")))
    result = run(
        tmp_path, "benchmark", "rows=[models]", f"models.checkpoints=[{tmp_path}/foo]", "image_size=[64,64]",
        "device=cpu", "rounds=1", "output=out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found = list(csv.DictReader((tmp_path / "out" / "models.csv").open()))
    assert [(row["name"], row["run"]) for row in found] == [("foo", "forward"), ("foo", "training")]
    assert all(float(row["milliseconds"]) > 0 and float(row["peak_mib"]) > 0 for row in found)
    assert "outside its backbone foo takes" in result.stdout
    assert (tmp_path / "out" / "models.png").exists()


SCALE = ScaleConfig("model=lite_dino", (64, 128), (64,), 2, (0, 300), 32, 3, "fp32")


def scale_row(point, milliseconds: float, peak: float | None) -> ScaleRow:
    return ScaleRow.of(point, MODEL, SCALE.num_classes, (milliseconds, peak))


def test_points_of_both_axes():
    found = [(p.over, p.run, p.side, p.objects) for p in points(SCALE)]
    assert found[:3] == [("side", "forward", 64, 2), ("side", "forward", 128, 2), ("side", "training", 64, 2)]
    of_objects = [("objects", run, 32, n) for run in ("training", "losses") for n in (0, 300)]
    assert found[3:] == of_objects
    for point in points(SCALE):
        point.make_step(MODEL, SCALE, torch.device("cpu"))()
    with pytest.raises(ConfigError, match=r"scale\.sides\[0\]: expected at least 1"):
        replace(SCALE, sides=(0,))


def test_powers_and_pictures_of_scale(tmp_path: Path):
    """Four times the pixels take four times the time and twice the memory; nothing is said of no objects."""
    small, large, training, *of_objects = points(SCALE)
    rows = [scale_row(small, 10, 100), scale_row(large, 40, 200), scale_row(training, 30, None)]
    rows += [scale_row(point, 5, 7) for point in of_objects]
    lines = [line.split() for line in scale_table(rows).splitlines()]
    assert lines[0] == ["run", "side", "objects", "tokens", "GFLOPs", "ms", "power", "MiB", "power"]
    assert lines[2][5:] == ["40.0", "1.00", "200", "0.50"]
    assert lines[3][6:] == ["-", "-", "-"]
    assert lines[5][6] == "-"
    assert draw_scale(rows, "a machine", tmp_path / "scale.png").stat().st_size > 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is known of Linux's processes alone")
def test_scale_by_the_script(tmp_path: Path):
    """A larger image takes more memory; each point has a process of its own."""
    system = '"size=small backbone=resnet18_slim encoder=h3l1 a=1 b=1"'
    result = run(
        tmp_path, "benchmark", "rows=[scale]", f"scale.system={system}", "scale.sides=[32,512]", "device=cpu",
        "scale.training_sides=[]", "scale.objects=[]", "rounds=1", "threads=1", "output=out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    small, large = csv.DictReader((tmp_path / "out" / "scale.csv").open())
    assert float(small["milliseconds"]) < float(large["milliseconds"])
    assert 0 < float(small["peak_mib"]) < float(large["peak_mib"]) - 10
    assert (tmp_path / "out" / "scale.png").exists()
