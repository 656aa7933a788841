"""Load scores and confusion matrices: of run folders, of a checkpoint, or of a file of detections."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from litedetr.data import coco_ground_truth, read_categories
from litedetr.engine.checkpoint import checkpoint_file, load_detector
from litedetr.engine.coco_metrics import Scores, coco_scores
from litedetr.engine.evaluate_checkpoint import EvalConfig, evaluate_checkpoint, validation_set
from litedetr.engine.evaluation_loop import Evaluation, read_detections
from litedetr.paths import user_path
from litedetr.settings import ConfigError
from litedetr.tools.plots.confusion_matrix import ConfusionMatrix, MatchRule, confusion_matrix
from litedetr.tools.plots.plot_config import ScorePlot
from litedetr.tools.plots.run_history import read_history
from litedetr.tools.plots.style import run_names

ELSEWHERE = (
    "scripts/eval.py with data=coco data.root=<folder> writes a detections.json, which detections=<it> and "
    "annotations=<COCO JSON> draw"
)


@dataclass(frozen=True)
class Scored:
    """The scores of a run, a checkpoint or a file of detections."""

    name: str  # in legends
    scores: Scores
    confusion: ConfusionMatrix | None  # None if there are no detections


def load_scores(config: ScorePlot) -> list[Scored]:
    """Of all that `config` names; empty on all ranks but the main one."""
    rule = MatchRule(config.iou, config.min_score)
    if config.runs:
        folders = [user_path(run) for run in config.runs]
        return [_of_run(*pair, rule) for pair in zip(folders, run_names(folders), strict=True)]
    if config.checkpoint:
        settings = EvalConfig(config.checkpoint, batch_size=config.batch_size, device=config.device)
        evaluation, _ = evaluate_checkpoint(settings, ELSEWHERE)
        path = checkpoint_file(config.checkpoint).resolve()
        return [] if evaluation is None else [_of_evaluation(f"{path.parent.name}/{path.stem}", evaluation, rule)]
    return [_of_files(user_path(config.detections), user_path(config.annotations), rule)]


def _of_run(folder: Path, name: str, rule: MatchRule) -> Scored:
    """Its last evaluation; the matrix of detections.json if scripts/eval.py has left one."""
    detections, matrix = folder / "detections.json", None
    if detections.is_file():
        dataset = validation_set(EvalConfig(str(folder)), load_detector(checkpoint_file(folder)), ELSEWHERE)
        matrix = confusion_matrix(dataset.coco_ground_truth(), read_detections(detections), rule)
    return Scored(name, last_scores(folder), matrix)


def last_scores(folder: Path) -> Scores:
    """Of the latest evaluation in results.json, which a complete run has, and metrics.jsonl, which may go on."""
    results = folder / "results.json"
    found = [json.loads(results.read_text(encoding="utf-8"))] if results.is_file() else []
    if not found or (folder / "metrics.jsonl").is_file():
        found += read_history(folder, folder.name).evaluation.values()
    if not found:
        raise ConfigError(f"runs: {folder} has no evaluation yet")
    return Scores.from_mapping(max(found, key=lambda evaluation: evaluation.get("step", 0)))


def _of_evaluation(name: str, evaluation: Evaluation, rule: MatchRule) -> Scored:
    return Scored(name, evaluation.scores, confusion_matrix(evaluation.ground_truth, evaluation.detections, rule))


def _of_files(detections: Path, annotations: Path, rule: MatchRule) -> Scored:
    categories = read_categories(annotations)
    truth, rows = coco_ground_truth(annotations, categories), read_detections(detections)
    return _of_evaluation(detections.stem, Evaluation(coco_scores(truth, rows, categories), rows, truth), rule)
