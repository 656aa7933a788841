"""Every image counts once, however the processes share them."""

import contextlib
import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import MODEL, run_config
from pycocotools.coco import COCO

from litedetr.data import CocoDetection, build_datasets
from litedetr.engine.coco_metrics import coco_scores, detections_as_json
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluation_loop import Evaluation, Evaluator
from litedetr.engine.loader import LoaderSettings, build_loader
from litedetr.models import Detector, build_detector


@dataclass(frozen=True)
class OneAfterTheOther(Ranks):
    """A rank of many in a single process: the main one comes last and finds what the others have sent."""

    sent: dict[int, Any] = field(default_factory=dict)

    def gather_to_main(self, value: Any) -> list[Any] | None:
        self.sent[self.rank] = value
        return [self.sent[rank] for rank in range(self.world_size)] if self.is_main else None


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector(MODEL, 5).eval()


def validation_set(cache: Path) -> CocoDetection:
    return build_datasets(run_config(cache).data, seed=0).val


def evaluate(cache: Path, detector: Detector, world_size: int, batch_size: int) -> Evaluation:
    """Of 5 images."""
    data = validation_set(cache)
    ranks = OneAfterTheOther(torch.device("cpu"), 0, world_size)
    for rank in reversed(range(world_size)):
        own = replace(ranks, rank=rank)
        batches = build_loader(data, LoaderSettings(batch_size, num_workers=0, seed=0), own)
        evaluation = Evaluator(data, batches, "fp32", own)(detector)
        assert (evaluation is None) == (rank != 0)
    return evaluation


def some_as_truth(evaluation: Evaluation) -> COCO:
    """Ground truth of every third detection: what a detector of random weights can be scored against."""
    entries = detections_as_json(evaluation.detections[::3])
    truth = COCO()
    truth.dataset = evaluation.ground_truth.dataset | {
        "annotations": [
            entry | {"id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
            for number, entry in enumerate(entries, start=1)
        ]
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 1), (2, 2), (3, 1), (4, 1), (7, 1), (8, 4)])
def test_scores_and_detections_are_those_of_one_process(
    cache: Path, detector: Detector, world_size: int, batch_size: int
):
    """With an odd number of images, and with more processes than images."""
    alone, shared = (evaluate(cache, detector, *setting) for setting in ((1, 1), (world_size, batch_size)))
    truth = some_as_truth(alone)
    scores = [coco_scores(truth, found.detections, validation_set(cache).categories) for found in (alone, shared)]
    np.testing.assert_equal(scores[1].to_mapping(), scores[0].to_mapping())
    assert 0 < scores[0].ap < 1
    first, second = (np.sort(found.detections, order=["image_id", "score"]) for found in (alone, shared))
    assert first["image_id"].tolist() == second["image_id"].tolist()
    np.testing.assert_allclose(second["score"], first["score"], rtol=1e-4)  # images of other sizes beside it
