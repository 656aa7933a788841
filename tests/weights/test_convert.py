"""From a published file to a checkpoint that is evaluated and fine-tuned like any other."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from published_helpers import Variant, state_dict

from litedetr.data import COCO_CLASSES, DataConfig, DataError, ShapesConfig, TransformConfig
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import CheckpointError, load_checkpoint, load_detector
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluate_checkpoint import EvalConfig, evaluate_checkpoint
from litedetr.engine.evaluation_loop import Evaluation
from litedetr.engine.run_config import RunConfig, TrainerConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.engine.trainer import Trainer
from litedetr.settings import ConfigError, from_mapping
from litedetr.tools.convert import TRANSFORMS, ConvertConfig, convert, train_settings
from litedetr.weights import PublishedWeightsError, load_published

ROOT = Path(__file__).resolve().parents[2]
CAT, DOG, UNUSED = 17, 18, 12
NATIVE = {"train_sides": [], "max_side": 1333, "eval_side": None, "flip": 0.5, "crop": False}


def published_file(folder: Path, variant: Variant | None = None, **class_bias: float) -> Path:
    """A published file. class_bias: by `id_<category id>`, of the logit; the others are unlikely."""
    state = state_dict(variant or Variant())
    bias = torch.full_like(state["class_embed.0.bias"], -8.0)
    for name, value in class_bias.items():
        bias[int(name.removeprefix("id_"))] = value
    for name in state:
        if "class_embed" in name and name.endswith("bias"):
            state[name] = bias
    path = folder / "published.pth"
    torch.save({"model": state, "epoch": 11}, path)
    return path


def converted(folder: Path, variant: Variant | None = None, high: int | None = 3, **class_bias: float) -> Path:
    source = published_file(folder, variant, **class_bias)
    convert(ConvertConfig(str(source), str(folder / "out.pt"), num_high_levels=high))
    return folder / "out.pt"


def write_coco(root: Path, boxes: dict[int, list[float]]) -> None:
    """One image of 96x64 with one object of each category id, in COCO's format and layout, all 80 classes."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "val2017" / "a.png")
    annotations = [
        {"id": n, "image_id": 5, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (c, b) in enumerate(boxes.items(), start=1)
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 96, "height": 64}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in COCO_CLASSES.items()],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def evaluate(checkpoint: Path, root: Path) -> Evaluation:
    config = EvalConfig(str(checkpoint), device="cpu", data={"name": "coco", "root": str(root)}, transforms=NATIVE)
    return evaluate_checkpoint(config)[0]


def test_a_converted_checkpoint_is_evaluated_by_raw_category_ids(tmp_path: Path):
    """The detector's own best box of a cat is made the ground truth: AP 1 for cats, 0 for the dog beside it."""
    write_coco(tmp_path / "empty", {})
    checkpoint = converted(tmp_path, id_17=2.0, id_12=4.0)
    found = evaluate(checkpoint, tmp_path / "empty").detections
    assert set(found["category_id"]) >= {CAT, UNUSED}
    assert found["category_id"][0] == UNUSED
    best_cat = found[found["category_id"] == CAT][0]

    write_coco(tmp_path / "coco", {CAT: best_cat["bbox"].tolist(), DOG: [1.0, 2.0, 30.0, 40.0]})
    scores = evaluate(checkpoint, tmp_path / "coco").scores
    by_name = {score.name: score for score in scores.classes}
    assert (by_name["cat"].ap, by_name["cat"].num_objects) == (pytest.approx(1.0), 1)
    assert (by_name["dog"].ap, by_name["dog"].num_objects) == (pytest.approx(0.0, abs=0.2), 1)
    assert by_name[f"(unused {UNUSED})"].num_objects == 0
    assert np.isnan(by_name[f"(unused {UNUSED})"].ap)
    assert scores.ap == pytest.approx((by_name["cat"].ap + by_name["dog"].ap) / 2)  # unused ids do not count


def test_the_checkpoint_holds_the_published_detector(tmp_path: Path):
    loaded = load_detector(converted(tmp_path))
    expected = load_published(torch.load(tmp_path / "published.pth", weights_only=True), 3)
    assert loaded.config.model == expected.config
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.categories.ids == tuple(range(91))
    used = {i: n for i, n in zip(loaded.categories.ids, loaded.categories.names, strict=True) if "unused" not in n}
    assert used == COCO_CLASSES
    assert len(used) == 80
    assert loaded.config.data.transforms == TRANSFORMS


def test_other_classes_than_cocos_need_their_names(tmp_path: Path):
    source = published_file(tmp_path, Variant(classes=6))
    config = ConvertConfig(str(source), str(tmp_path / "out.pt"), num_high_levels=3)
    with pytest.raises(ConfigError, match=r"annotations: .* got None: its 6 class logits are not the 91 of COCO"):
        convert(config)
    assert not (tmp_path / "out.pt").exists()
    annotations = tmp_path / "instances.json"
    content: dict[str, Any] = {"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "annotations": []}
    categories = [{"id": 5, "name": "cell"}, {"id": 2, "name": "plate"}]
    annotations.write_text(json.dumps(content | {"categories": categories}))
    convert(replace(config, annotations=str(annotations)))
    names = load_detector(tmp_path / "out.pt").categories.names
    assert names == ("(unused 0)", "(unused 1)", "plate", "(unused 3)", "(unused 4)", "cell")
    annotations.write_text(json.dumps(content | {"categories": [*categories, {"id": 6, "name": "far"}]}))
    with pytest.raises(DataError, match=r"category ids: expected integers in 0\.\.5, got 6 \(far\)"):
        convert(replace(config, annotations=str(annotations), overwrite=True))


def test_a_set_with_other_names_is_refused(tmp_path: Path):
    checkpoint = converted(tmp_path)
    write_coco(tmp_path / "coco", {})
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "wolf"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="id 1 is 'wolf' there and 'person' here"):
        evaluate(checkpoint, tmp_path / "coco")


def test_evaluation_must_name_the_data(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"data\.root: expected an existing folder, got .*give data=coco data.root="):
        evaluate_checkpoint(EvalConfig(str(converted(tmp_path)), device="cpu"))


def test_files_are_checked_before_any_work_and_never_replaced_in_silence(tmp_path: Path):
    missing = ConvertConfig(str(tmp_path / "none.pth"), str(tmp_path / "out.pt"), 3)
    with pytest.raises(ConfigError, match="published: expected an existing file"):
        convert(missing)
    bad = tmp_path / "bad.pth"
    bad.write_text("no weights")
    out = tmp_path / "out.pt"
    out.write_text("precious")
    with pytest.raises(ConfigError, match="out: expected a file that is not there yet, or overwrite=true"):
        convert(ConvertConfig(str(bad), str(out), 3))
    with pytest.raises(ConfigError, match="out: expected a file name, not a folder"):
        convert(ConvertConfig(str(bad), str(tmp_path), 3))
    with pytest.raises(ConfigError, match="out: expected another file than the published one"):
        convert(ConvertConfig(str(bad), str(bad), 3, overwrite=True))
    with pytest.raises(PublishedWeightsError, match="bad.pth"):
        convert(ConvertConfig(str(bad), str(out), 3, overwrite=True))
    assert out.read_text() == "precious"
    convert(ConvertConfig(str(published_file(tmp_path)), str(out), 3, overwrite=True))
    assert load_checkpoint(out).progress.step == 0


def run_script(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_script(tmp_path: Path):
    source, out = published_file(tmp_path), tmp_path / "new" / "out.pt"
    unasked = run_script(source, out)
    assert unasked.returncode == 2
    assert "error: num_high_levels: expected an integer in 1..3" in unasked.stderr
    assert "Traceback" not in unasked.stderr
    assert not out.parent.exists()
    done = run_script(source, out, "num_high_levels=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: H3L1-(6+1)x1, resnet18, attention key_aware_shared (encoder)")
    assert f"python scripts/eval.py checkpoint={out}" in done.stdout
    assert load_detector(out).model.num_classes == 91


@pytest.mark.parametrize(
    ("variant", "high"),
    [
        (Variant(), 3),
        (Variant(ends=(1, 3, 5), low_hidden=24), 2),
        (Variant(ends=(), levels=5, encoder_keys="none", decoder_keys="none", encoder_layers=4, backbone=50), None),
    ],
)
def test_the_settings_it_tells_build_the_same_detector(variant: Variant, high: int | None):
    model = load_published(state_dict(variant), high).config
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        settings = OmegaConf.to_container(compose("train", train_settings(model)), resolve=True)
    assert RunConfig.from_settings(settings).model == model


def test_transforms_are_those_of_the_published_recipe():
    written = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "transforms" / "detr.yaml"))
    assert from_mapping(TransformConfig, written) == TRANSFORMS


def fine_tuning(checkpoint: Path, folder: Path, **model: Any) -> Trainer:
    """Of two steps on the five classes of the embedded set."""
    shapes = ShapesConfig(str(folder / "cache"), num_train=4, num_val=2, min_side=64, max_side=64, max_objects=3)
    transforms = from_mapping(TransformConfig, NATIVE)
    config = RunConfig(
        data=DataConfig("shapes", transforms, shapes=shapes),
        model=replace(load_detector(checkpoint).config.model, **model),
        schedule=ScheduleConfig(max_epochs=None, max_steps=2, milestones=(), decay="constant", batch_size=2),
        trainer=TrainerConfig(device="cpu", init_from=str(checkpoint), num_pictures=0, log_every=1),
    )
    return build_trainer(config, RunFolder(folder / "run", None, "test"), Ranks(torch.device("cpu")))


def test_fine_tuning_on_other_classes(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    trainer = fine_tuning(converted(tmp_path), tmp_path)
    theirs = load_checkpoint(tmp_path / "out.pt").model
    own = trainer.state.model.state_dict()
    fresh = {name for name, value in own.items() if value.shape != theirs[name].shape}
    assert fresh == {
        "decoder.head.classes.weight",
        "decoder.head.classes.bias",
        "query_selection.head.classes.weight",
        "query_selection.head.classes.bias",
        "denoising.labels.weight",
    }
    assert all(torch.equal(value, theirs[name]) for name, value in own.items() if name not in fresh)
    told = "".join(capfd.readouterr())
    assert f"left at their initial values: {', '.join(n for n in own if n in fresh)}" in told
    scores = trainer.run()
    assert [score.name for score in scores.classes] == ["circle", "ring", "square", "triangle", "star"]


def test_fine_tuning_another_model_is_refused(tmp_path: Path):
    checkpoint = converted(tmp_path)
    narrower = replace(load_detector(checkpoint).config.model.decoder, feedforward=24)
    with pytest.raises(CheckpointError, match=r"of another shape: decoder\.layers\.0\.feedforward\.linear1\.weight"):
        fine_tuning(checkpoint, tmp_path, decoder=narrower)
