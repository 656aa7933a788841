"""Images large and tiny, many objects, many classes: each works, or says why not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import MODEL, metrics, run_config
from scale_helpers import Picture, coco, transforms, write_picture, write_set

from litedetr.data import Categories, build_datasets
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import LoadedDetector
from litedetr.engine.coco_metrics import DETECTION, coco_scores
from litedetr.engine.detect import detect
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_folder import RunFolder
from litedetr.inference.predictor import Predictor
from litedetr.losses import Criterion, LossConfig
from litedetr.models import DetectorConfig, build_detector
from litedetr.models.denoising import Denoising
from litedetr.models.detector_config import EncoderConfig
from litedetr.models.training_queries import JointQueries
from litedetr.structures import ImageBatch, Queries, TargetBatch
from litedetr.tools.benchmark.timed_detectors import Conditions, of_config
from litedetr.tools.random_batch import RandomBatch, random_targets

CPU = torch.device("cpu")
# Four levels and 60 queries: an image of one pixel has 4 tokens, one of 32 pixels 22.
FOUR_LEVELS = replace(
    MODEL,
    neck=replace(MODEL.neck, num_levels=4),
    encoder=replace(MODEL.encoder, num_high_levels=3),
    query_selection=replace(MODEL.query_selection, num_queries=60),
    denoising=replace(MODEL.denoising, num_pairs=100),
)
PAPER = DetectorConfig(encoder=EncoderConfig(num_high_levels=3, num_high_layers=6, num_blocks=1))
FAR_IDS = [3, 2**31 + 7, 2**40]
# (height, width) of the images of a batch, and their objects
BATCHES = {
    "one pixel": ([(1, 1)], [1]),
    "one pixel, nothing in it": ([(1, 1), (1, 1)], [0, 0]),
    "300 objects in a pixel": ([(1, 1)], [300]),
    "one pixel beside a large image": ([(1, 1), (500, 2000)], [3, 2]),
    "a small image, crowded, beside a large one": ([(32, 32), (1000, 600)], [50, 300]),
    "a row and a column": ([(1, 700), (700, 1)], [2, 2]),
}


def targets_of(sizes: list[tuple[int, int]], counts: list[int], num_classes: int) -> TargetBatch:
    items = [random_targets(size, 1, n, num_classes).items[0] for size, n in zip(sizes, counts, strict=True)]
    return TargetBatch.from_targets(items)


def small_model(num_classes: int = 5, config: DetectorConfig = FOUR_LEVELS):
    torch.manual_seed(0)
    return build_detector(config, num_classes)


@pytest.mark.parametrize(("sizes", "counts"), BATCHES.values(), ids=list(BATCHES))
def test_any_sizes_and_numbers_of_objects_learn_and_detect(sizes: list[tuple[int, int]], counts: list[int]):
    model = small_model()
    images = ImageBatch.from_images([torch.randn(3, *size) for size in sizes])
    targets = targets_of(sizes, counts, 5)
    losses = Criterion(LossConfig())(model.train()(images, targets), targets)
    losses.total.backward()
    assert 0 <= losses.total.item() < 100
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for (height, width), found in zip(sizes, detect(model.eval(), images, sizes, "fp32"), strict=True):
        assert 0 < len(found) <= 300
        assert found.boxes.isfinite().all()
        assert found.scores.min() > 0  # none of queries on padding
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        assert (centres >= 0).all()
        assert (centres <= torch.tensor([width, height]) + 1e-3).all()


def test_a_real_run_of_every_size_with_a_thousand_classes_and_far_ids(
    tmp_path: Path, one_rank: Ranks, capsys: pytest.CaptureFixture
):
    pictures = [Picture(1, 1, 1), Picture(32, 32, 80), Picture(300, 200, 300), Picture(1, 120, 0)]
    ids = [*range(997), *FAR_IDS[1:], 2**63 - 1]
    data = coco(write_set(tmp_path / "data", pictures, ids), transforms())
    config = run_config(
        tmp_path, schedule={"max_epochs": 1, "milestones": (), "batch_size": 2}, trainer={"num_pictures": 4}
    )
    trainer = build_trainer(
        replace(config, data=data, model=FOUR_LEVELS), RunFolder(tmp_path / "run", None, "test"), one_rank
    )
    scores = trainer.run()
    said = capsys.readouterr().out
    assert "2 training images have more objects (up to 300) than query_selection.num_queries (60)" in said
    assert len(scores.classes) == 1000
    assert sum(score.num_objects for score in scores.classes) == 381
    assert all(record["loss"] < 100 for record in metrics(tmp_path / "run", "train"))
    predictor = Predictor.load(tmp_path / "run", device="cpu")
    assert predictor.categories.ids == tuple(ids)
    files = [tmp_path / "data" / "val" / f"{number}.png" for number in range(len(pictures))]
    found = predictor.predict(files, threshold=0.0, max_detections=300)
    assert [len(one) for one in found] == [300] * 4  # (query, class) pairs: 4 queries have 4,000


def test_an_image_of_4000_pixels_is_learned_resized_and_detected_whole(tmp_path: Path, one_rank: Ranks):
    root = write_set(tmp_path / "data", [Picture(4000, 4000, 300)], FAR_IDS, ".jpg")
    config = run_config(
        tmp_path, schedule={"max_epochs": 1, "milestones": (), "batch_size": 1}, trainer={"num_pictures": 0}
    )
    config = replace(config, data=coco(root, transforms(side=256)))
    scores = build_trainer(config, RunFolder(tmp_path / "run", None, "test"), one_rank).run()
    assert sum(score.num_objects for score in scores.classes) == 300
    loaded = LoadedDetector(small_model(3, MODEL), Categories(("a", "b", "c"), (1, 2, 3)), config)
    resized, whole = (
        Predictor(replace(loaded, config=replace(config, data=coco(root, how))), CPU)
        for how in (transforms(side=256), transforms())
    )
    for predictor, side in ((resized, 256), (whole, 4000)):
        assert predictor.resized((4000, 4000)) == (side, side)
        (found,) = predictor.predict(root / "val" / "0.jpg", threshold=0.0)
        assert found.boxes.max() > 1000  # in pixels of the file


def test_more_objects_than_pairs_leave_one_group_of_denoising_queries():
    """DINO's rule: as many groups as `num_pairs` has room for, at least one."""
    targets = targets_of([(64, 64), (64, 64)], [300, 2], 5)
    own = Queries(torch.zeros(2, 60, 16), torch.zeros(2, 60, 4))
    _, queries = Denoising(replace(MODEL.denoising, num_pairs=100), 16, 5)(own, targets)
    assert (queries.num_groups, len(queries)) == (1, 600)
    assert queries.queries.valid.sum(1).tolist() == [600, 4]
    mask = JointQueries(own, (queries,)).attention_mask()
    assert mask.shape == (2, 660, 660)
    assert mask[0, :600].all()  # one group, which sees itself and the queries
    assert not mask[:, 600:, :600].any()
    assert mask[1, :600].sum(1).tolist() == [64 + (1 if i not in (0, 1, 300, 301) else 0) for i in range(600)]


def test_recall_counts_a_hundred_detections_an_image_as_coco_does(tmp_path: Path):
    """150 perfect detections of 150 objects: 300 detections are kept and written, COCO's scores take the first 100."""
    root = write_set(tmp_path / "data", [Picture(200, 200, 150)], [2**31 + 7])
    truth = build_datasets(coco(root, transforms()), 0).val.coco_ground_truth()
    rows = [(a["image_id"], a["category_id"], tuple(a["bbox"]), 0.9) for a in truth.dataset["annotations"]]
    scores = coco_scores(truth, np.array(rows, DETECTION), Categories(("class",), (2**31 + 7,)))
    assert scores.summary["AR_100"] == pytest.approx(100 / 150)
    assert scores.ap == pytest.approx(67 / 101)  # of the 101 recall points those up to 2/3


def test_no_image_at_all_is_one_clear_error(tmp_path: Path):
    predictor = Predictor(
        LoadedDetector(small_model(), Categories(("a",) * 5, tuple(range(5))), run_config(tmp_path)), CPU
    )
    with pytest.raises(ValueError, match=r"images\[0\]: expected an array .* with at least one pixel, got the shape"):
        predictor.predict(np.zeros((0, 10, 3), np.uint8))


@pytest.mark.slow
def test_the_papers_detector_takes_4000_pixels(tmp_path: Path):
    """Lite-DINO R50, H3L1-(6+1)x1 with 900 queries: a file of 16 megapixels resized as DETR does it, then whole."""
    write_picture(tmp_path / "large.jpg", Picture(4000, 4000, 0))
    torch.manual_seed(0)
    loaded = LoadedDetector(build_detector(PAPER, 80), Categories.by_id({}, 80), run_config(tmp_path))
    for how, side in ((transforms(side=800, max_side=1333), 800), (transforms(), 4000)):
        data = replace(loaded.config.data, transforms=how)
        predictor = Predictor(replace(loaded, config=replace(loaded.config, data=data)), CPU)
        assert predictor.resized((4000, 4000)) == (side, side)
        (found,) = predictor.predict(tmp_path / "large.jpg", threshold=0.0, max_detections=300)
        assert len(found) == 300
        assert found.boxes.isfinite().all()


@pytest.mark.slow
def test_the_papers_detector_takes_a_step_with_300_objects_of_1000_classes():
    conditions = Conditions(RandomBatch((512, 512), 1, 300, 1000, "fp32"), CPU)
    step = of_config("", PAPER, conditions).steps["training"]
    first, second = step(), step()  # what is not finite raises
    assert first.loss != second.loss  # the optimiser moved the weights
    assert min(first.grad_norm, second.grad_norm) > 0
