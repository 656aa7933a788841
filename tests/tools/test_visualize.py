"""The pictures of a tiny run, and what they are drawn from."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import metrics, run_config, train
from PIL import Image

from litedetr.data import Categories
from litedetr.engine.coco_metrics import SUMMARY, Scores
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluate_checkpoint import EvalConfig, evaluate_checkpoint
from litedetr.engine.evaluation_loop import read_detections, write_detections
from litedetr.losses import Branch
from litedetr.losses.parts import LossName
from litedetr.settings import ConfigError
from litedetr.structures import Predictions
from litedetr.tools.plots.draw_attention import draw_attention, find_object
from litedetr.tools.plots.draw_scores import draw_scores
from litedetr.tools.plots.draw_training import draw_training
from litedetr.tools.plots.load_scores import last_scores
from litedetr.tools.plots.plot_config import AttentionPlot, ScorePlot, TrainingPlot
from litedetr.tools.plots.run_history import Curve, read_history
from litedetr.tools.plots.style import run_names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run, with an image beside it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    trainer = train(run_config(cache), folder, Ranks(torch.device("cpu")))
    trainer.report.val_set.load_image(1).save(folder / "image.png")
    return folder


def write_metrics(folder: Path, *records: dict, tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines + tail)
    return folder


def trained(step: int, **numbers) -> dict:
    return {"kind": "train", "step": step, "epoch": step / 4, **numbers}


def evaluated(step: int, epoch: int, **scores) -> dict:
    return {"kind": "evaluation", "step": step, "epoch": epoch, **scores}


def is_picture(path: Path) -> bool:
    """A PNG on which there is something to see."""
    with Image.open(path) as image:
        return image.format == "PNG" and min(image.size) > 200 and len(image.convert("RGB").getcolors(2**24)) > 100


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"point": (20.0, 31.5)}, "attention_image_point_20_31.5_encoder"),
        ({"min_score": 0.0}, "attention_image_object_1_encoder"),
        ({"min_score": 0.0, "object": 2, "of": "decoder"}, "attention_image_object_2_decoder"),
    ],
)
def test_attention(finished: Path, settings: dict, name: str):
    config = AttentionPlot(str(finished), str(finished / "image.png"), device="cpu", **settings)
    picture, weights = draw_attention(config)
    assert picture == finished / "plots" / f"{name}.png"
    assert is_picture(picture)
    numbers = json.loads(weights.read_text())
    assert list(numbers["weights"]) == ["S2", "S1"]
    assert sum(numbers["weights"].values()) == pytest.approx(1)
    assert all(sum(layer["weights"].values()) == pytest.approx(1) for layer in numbers["layers"])
    assert [layer["layer"] for layer in numbers["layers"]] == (
        ["1", "2"] if name.endswith("decoder") else ["1 S1", "2 S2"]
    )
    # 2 queries in all, 2 heads, 2 levels, 2 points
    assert "16 samples to choose from" in numbers["what"]


def test_a_point_outside_the_image_is_refused(finished: Path):
    width, height = Image.open(finished / "image.png").size
    config = AttentionPlot(str(finished), str(finished / "image.png"), point=(width, 0), device="cpu")
    with pytest.raises(ConfigError, match=f"point: expected .* within the image of {width}x{height} pixels"):
        draw_attention(config)


def predictions_of(*scores: float) -> Predictions:
    """One query for each score, of one class."""
    return Predictions(torch.tensor(scores).logit().reshape(1, -1, 1), torch.full((1, len(scores), 4), 0.5))


@pytest.mark.parametrize(
    ("rank", "message", "lower"),
    [
        (
            1,
            "min_score: expected at most the best detection's score, 0.123: min_score=0.11 shows object 1, got 0.3",
            0.11,
        ),
        (3, "min_score: expected .*: min_score=0.0018 shows object 3, got 0.3", 0.0018),
    ],
)
def test_without_a_detection_the_error_names_a_score_that_would_do(rank: int, message: str, lower: float):
    predictions, categories = predictions_of(0.05, 0.123, 0.002), Categories(("cat",), (1,))
    with pytest.raises(ConfigError, match=f"^{message}"):
        find_object(predictions, categories, rank, 0.3)
    assert find_object(predictions, categories, rank, lower).rank == rank


def test_beyond_the_last_detection_the_error_names_a_score_that_would_do():
    predictions, categories = predictions_of(0.5, 0.2), Categories(("cat",), (1,))
    with pytest.raises(
        ConfigError,
        match=r"^object: expected at most 1, .* min_score=0.3 \(the best has 0.500\), or min_score=0.18, got 2",
    ):
        find_object(predictions, categories, 2, 0.3)
    with pytest.raises(
        ConfigError, match=r"^object: expected at most 1, .* min_score=0.3 \(the best has 0.500\), got 3"
    ):
        find_object(predictions, categories, 3, 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"point": (1.0, 2.0), "object": 1}, "object: expected null beside a point"),
        ({"point": (1.0, 2.0), "of": "decoder"}, "of: expected encoder with a point"),
        ({"object": 0}, "object: expected at least 1"),
    ],
)
def test_attention_settings_that_do_not_fit(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        AttentionPlot("runs/a", "image.png", **settings)


def test_training_of_a_finished_and_a_beginning_run(finished: Path, tmp_path: Path):
    beginning = write_metrics(tmp_path / "beginning", *metrics(finished, "train")[:1], tail='{"kind": "tra')
    paths = draw_training(TrainingPlot((str(finished), str(beginning)), output=str(tmp_path)))
    assert [path.name for path in paths] == ["training.png", "losses.png"]
    assert all(map(is_picture, paths))


def test_a_run_with_evaluations_alone_is_drawn(finished: Path, tmp_path: Path):
    """As one whose trainer.log_every was never reached."""
    run = write_metrics(tmp_path / "run", *metrics(finished, "evaluation")[:1])
    assert all(map(is_picture, draw_training(TrainingPlot((str(run),)))))


def test_a_history_takes_each_step_once_and_in_order(tmp_path: Path):
    """The later line of step 8 counts, wherever in the file it stands."""
    records = [trained(8, loss=3.0), evaluated(8, 2, AP=0.1), trained(4, loss=2.0), trained(8, loss=9.0)]
    history = read_history(write_metrics(tmp_path / "run", *records, evaluated(6, 1, AP=None), tail="{"), "run")
    curve = history.curve("train", "loss", "step")
    assert (curve.x.tolist(), curve.y.tolist()) == ([4, 8], [2, 9])
    assert history.curve("train", "loss", "epoch").x.tolist() == [1, 2]
    assert len(history.curve("train", "other", "step")) == 0
    evaluations = history.curve("evaluation", "AP", "epoch")  # undefined at step 6
    assert (evaluations.x.tolist(), evaluations.y.tolist()) == ([2], [0.1])


def test_an_evaluation_within_an_epoch_stands_within_it(tmp_path: Path):
    run = write_metrics(tmp_path / "run", trained(4, loss=1.0), evaluated(6, 1, AP=0.2))
    assert read_history(run, "run").curve("evaluation", "AP", "epoch").x.tolist() == [1.5]


def test_a_damaged_line_is_named(tmp_path: Path):
    run = write_metrics(tmp_path / "run", trained(4, loss=1.0), tail="{\n" + json.dumps(trained(8, loss=1.0)) + "\n")
    with pytest.raises(ConfigError, match=r"metrics.jsonl: line 2 is no JSON"):
        read_history(run, "run")


def test_runs_without_metrics_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"runs: expected run folders with a metrics.jsonl, got {tmp_path}"):
        read_history(tmp_path, "run")
    with pytest.raises(ConfigError, match="has no records yet"):
        read_history(write_metrics(tmp_path / "empty"), "run")


def test_smoothing_is_a_running_mean_that_starts_at_the_first_value():
    curve = Curve(np.arange(3), np.array([4.0, 0.0, 2.0]))
    assert curve.smoothed(0).y.tolist() == [4, 0, 2]
    assert curve.smoothed(0.5).y == pytest.approx([4, 2 / 1.5, (1 + 0 + 2) / 1.75])


def test_parts_of_the_loss_are_found_by_branch_layer_and_term(tmp_path: Path):
    parts = {"decoder": {"classes": [2.0, 1.0]}, "one_to_many": {"own_term": [0.5]}}
    run = write_metrics(tmp_path / "run", trained(4, loss=1.0), trained(8, loss=1.0, loss_parts=parts))
    history = read_history(run, "run")
    layers = [LossName(Branch.DECODER, layer, "classes") for layer in (0, 1)]
    names = [*layers, LossName(Branch.ONE_TO_MANY, 0, "own_term")]
    assert history.loss_parts() == names
    assert [history.curve("train", name, "step").y.tolist() for name in names] == [[2], [1], [0.5]]
    assert all(map(is_picture, draw_training(TrainingPlot((str(run),)))))


def test_parts_of_earlier_versions_are_found_too(tmp_path: Path):
    """Before the term's name stood the decoder's last layer, behind it the branch and the layer."""
    former = {"class_0": 3.0, "class": 1.0, "class_1": 2.0, "l1_proposals": 4.0, "giou_denoising_1": 6.0}
    former |= {"giou_denoising_0": 5.0, "l1_one_to_many_0": 7.0}
    history = read_history(write_metrics(tmp_path / "run", trained(4, loss=1.0, lr=0.1, **former)), "run")
    found = {part: history.curve("train", part, "step").y.item() for part in history.loss_parts()}
    assert found == {
        (Branch.DECODER, 0, "classes"): 3,
        (Branch.DECODER, 1, "classes"): 2,
        (Branch.DECODER, 2, "classes"): 1,
        (Branch.PROPOSALS, 0, "l1"): 4,
        (Branch.DENOISING, 0, "giou"): 5,
        (Branch.DENOISING, 1, "giou"): 6,
        (Branch.ONE_TO_MANY, 0, "l1"): 7,
    }
    assert history.curve("train", "lr", "step").y.tolist() == [0.1]


def test_scores_of_a_checkpoint_of_its_files_and_of_runs_agree(finished: Path, tmp_path: Path):
    evaluation, _ = evaluate_checkpoint(EvalConfig(str(finished), device="cpu"))
    annotations = tmp_path / "truth.json"
    annotations.write_text(json.dumps(evaluation.ground_truth.dataset))
    write_detections(tmp_path / "found.json", evaluation.detections)
    rule = {"min_score": 0.02, "iou": 0.1}
    of_files = ScorePlot(detections=str(tmp_path / "found.json"), annotations=str(annotations), **rule)
    of_checkpoint = ScorePlot(checkpoint=str(finished), device="cpu", **rule)
    drawn = [draw_scores(config) for config in (of_files, of_checkpoint)]
    assert [path.name for path in drawn[0]] == [
        "scores.png",
        "classes.png",
        "confusion_found.png",
        "confusion_found.csv",
    ]
    assert drawn[0][0].parent == tmp_path / "plots"
    assert drawn[1][2] == finished / "plots" / "confusion_tiny_best.png"
    assert all(is_picture(path) for paths in drawn for path in paths[:3])
    matrices = [list(csv.reader(paths[3].open())) for paths in drawn]
    assert matrices[0] == matrices[1]
    assert sum(int(cell) for row in matrices[0][1:] for cell in row[1:]) > 0

    write_detections(finished / "detections.json", evaluation.detections)
    other = write_metrics(tmp_path / "other", *metrics(finished, "evaluation"))
    of_runs = draw_scores(ScorePlot(runs=(str(finished), str(other)), output=str(tmp_path / "out"), **rule))
    assert [path.name for path in of_runs] == ["scores.png", "classes.png", "confusion_tiny.png", "confusion_tiny.csv"]
    assert list(csv.reader(of_runs[3].open())) == matrices[0]


def test_a_run_scores_what_its_results_or_its_last_evaluation_say(finished: Path, tmp_path: Path):
    results = json.loads((finished / "results.json").read_text())
    other = write_metrics(tmp_path / "run", *metrics(finished, "evaluation"))
    for folder in (finished, other):
        scores = last_scores(folder)
        assert scores.to_mapping() == {name: results[name] for name in scores.to_mapping()}
    with pytest.raises(ConfigError, match="has no evaluation yet"):
        last_scores(write_metrics(tmp_path / "young", trained(1, loss=1.0)))


def test_a_run_that_goes_on_scores_what_it_evaluated_last(finished: Path, tmp_path: Path):
    """The results of its first end are still there."""
    last = max(metrics(finished, "evaluation"), key=lambda record: record["step"])
    folder = write_metrics(tmp_path / "run", last, last | {"step": last["step"] + 9, "AP": 0.625})
    (folder / "results.json").write_text((finished / "results.json").read_text())
    assert last_scores(folder).ap == 0.625


def test_a_checkpoint_whose_data_have_moved_says_what_draws_instead(finished: Path, tmp_path: Path):
    content = torch.load(finished / "best.pt", weights_only=True)
    data = {"name": "coco", "root": "/moved", "transforms": content["config"]["data"]["transforms"]}
    content["config"]["data"] = data
    torch.save(content, tmp_path / "best.pt")
    message = (
        r"best\.pt: the validation set .* cannot be read \(data\.root: .*'/moved'\); scripts/eval\.py .* detections="
    )
    with pytest.raises(ConfigError, match=message):
        draw_scores(ScorePlot(checkpoint=str(tmp_path / "best.pt")))
    with pytest.raises(ConfigError, match=r"cannot be read .*; data=coco data\.root=<folder> evaluates on another one"):
        evaluate_checkpoint(EvalConfig(str(tmp_path / "best.pt"), device="cpu"))


def test_undefined_scores_survive_the_file():
    summary = dict.fromkeys(SUMMARY, None)
    entry = {"a": {"AP": None, "AP50": 0.5, "objects": 3}}
    scores = Scores.from_mapping({**summary, "classes": entry, "step": 7})
    assert math.isnan(scores.ap)
    assert math.isnan(scores.classes[0].ap)
    assert scores.to_mapping() == {**summary, "classes": entry}


@pytest.mark.parametrize(
    "settings",
    [{}, {"runs": ("a",), "checkpoint": "b"}, {"detections": "a.json"}, {"runs": ("a",), "iou": 0.0}],
)
def test_score_settings_that_do_not_fit(settings: dict):
    with pytest.raises(ConfigError, match="expected"):
        ScorePlot(**settings)


HUGE = f'[{{"image_id": {10**400}, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}}]'


@pytest.mark.parametrize("content", ["{", "[1]", '[{"image_id": 1}]', '{"a": 1}', "[" * 100_000, HUGE])
def test_detections_of_another_form_are_refused_with_the_files_name(tmp_path: Path, content: str):
    path = tmp_path / "found.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"found.json: expected a JSON list of objects with image_id, category_id"):
        read_detections(path)


def test_runs_of_one_name_are_told_apart_by_their_paths():
    assert run_names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert run_names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]


def run(folder: Path, *settings: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(ROOT / "scripts" / "visualize.py"), *settings]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_script_prints_where_the_pictures_are(finished: Path, tmp_path: Path):
    result = run(tmp_path, "draw=training", f"runs=[{finished}]", "output=out", "over=step")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["out/training.png", "out/losses.png"]
    assert all(is_picture(tmp_path / path) for path in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["draw=training", "runs=[nothing]"], "error: runs: expected run folders with a metrics.jsonl, got nothing"),
        (["draw=training", "runs=[a]", "image=a.png"], "Could not override 'image'"),
        ([], "error: draw: expected one of attention, training, scores, got None"),
    ],
)
def test_a_mistake_is_one_clear_message(tmp_path: Path, settings: list[str], message: str):
    result = run(tmp_path, *settings)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
