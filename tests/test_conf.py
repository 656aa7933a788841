"""Every choice of every configuration group composes and becomes a model."""

import re
from dataclasses import MISSING, fields, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from litedetr.cli.help import offer_help
from litedetr.data import DataConfig, TransformConfig
from litedetr.engine.evaluate_checkpoint import EvalConfig
from litedetr.engine.run_config import RunConfig, beside_model
from litedetr.inference.predict_files import PredictConfig
from litedetr.losses import LossConfig
from litedetr.losses.classification import MatchabilityAware, Varifocal
from litedetr.models import build_detector
from litedetr.settings import ConfigError, from_mapping, to_mapping
from litedetr.tools.export.export_config import ExportConfig
from litedetr.tools.feeding import FeedingConfig
from litedetr.tools.plots.plot_config import AttentionPlot, ScorePlot, TrainingPlot

CONF = Path(__file__).parent.parent / "conf"
DETECTOR_GROUPS = ("size", "encoder", "attention", "backbone", "model", "decoder", "loss")
GROUPS = (*DETECTOR_GROUPS, "transforms", "data", "schedule", "experiment")
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
COCO = "data.root=/data/coco"


def settings(*overrides: str, script: str = "train") -> dict:
    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose(script, list(overrides)), resolve=True)


def run_config(*overrides: str) -> RunConfig:
    return RunConfig.from_settings(settings(*overrides))


def build(config: RunConfig) -> torch.nn.Module:
    """On the meta device, where a model of any size costs nothing."""
    with torch.device("meta"):
        return build_detector(config.model, num_classes=80)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_becomes_a_model(choice):
    if choice == "backbone=swin_t":
        pytest.skip("its configuration comes from the hub")
    group, _, name = choice.partition("=")
    says_root = "data.root=" in (CONF / group / f"{name}.yaml").read_text()
    needs_root = choice == "data=coco" or (group == "experiment" and says_root)
    assert build(run_config(choice, *([COCO] if needs_root else []))).num_classes == 80


def test_the_default_is_h3l1_6_1_with_key_aware_attention():
    model = build(run_config("encoder=h3l1", "a=6", "b=1"))
    assert model.encoder.num_low_levels == 1
    assert [len(block.high_layers) for block in model.encoder.blocks] == [6]
    assert {layer.attention.kind for layer in model.encoder.blocks[0].high_layers} == {"key_aware_shared"}


@pytest.mark.parametrize(
    ("overrides", "high_levels", "a", "b"),
    [(["encoder=h2l2"], 2, 2, 3), (["encoder=h3l1", "a=2", "b=3"], 3, 2, 3), (["a=3", "b=2"], 3, 3, 2)],
)
def test_the_papers_splits(overrides, high_levels, a, b):
    encoder = run_config(*overrides).model.encoder
    assert (encoder.num_high_levels, encoder.num_high_layers, encoder.num_blocks) == (high_levels, a, b)


def test_dino_has_a_full_encoder_and_no_a():
    config = run_config("model=dino_4scale").model
    assert (config.encoder.update, config.encoder.num_layers, config.attention.encoder) == ("full", 6, "deformable")
    with pytest.raises(ConfigCompositionException, match="Could not override 'a'"):
        settings("model=dino_4scale", "a=6")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=dino_4scale", "+a=6"], "a: expected null with encoder.update=full, got 6"),
        (["+learning_rate=1"], "learning_rate: expected one of backbone, neck, .*, got 'learning_rate'"),
        (["+trainer.resume=auto"], "trainer.resume: expected nothing: it is called resume, got 'auto'"),
        (["trainer=null"], "trainer: expected a mapping with the settings of TrainerConfig, got None"),
        (["resume=''"], "resume: expected auto, never or the path of a checkpoint or a run folder, got ''"),
        (["~data"], "data.name: expected a value, got None"),
        (["neck=null"], "neck: expected a mapping with the settings of NeckConfig, got None"),
        (["schedule.lr=nan"], "schedule.lr: expected a finite number, got nan"),
        (["schedule.gamma=-1"], "schedule.gamma: expected more than 0, got -1"),
        (["seed=9223372036854775808"], "seed: expected at most 9223372036854775807, got 9223372036854775808"),
        (["loss.cost.l1=-1"], r"loss.cost.l1: expected at least 0, got -1"),
        (["loss.focal_gamma=-2"], r"loss.focal_gamma: expected at least 0, got -2"),
        (["loss.classification.name=foo"], r"loss.classification.name: expected one of 'focal', .*, got 'foo'"),
        (["loss.classification=null"], r"loss.classification.name: expected one of 'focal', .*, got None"),
        (["loss=varifocal", "loss.classification.alpha=2"], r"loss.classification.alpha: expected at most 1, got 2"),
        (["+loss.classification.alpha=1"], r"loss.classification.alpha: expected one of name, got 'alpha'"),
        (["loss.class_cost.name=foo"], r"loss.class_cost.name: expected one of 'focal' or 'position_modulated', got"),
        (["loss.focal_alpha=2"], r"loss.focal_alpha: expected at most 1, got 2"),
        (["data.classes=[ring, null]"], r"data.classes\[1\]: expected text, got None"),
        (["data.classes=[ring, '']"], r"data.classes\[1\]: expected text that is not empty, got ''"),
        (["data.classes=[ring, ring]"], "data.classes: expected distinct category names"),
        (["data.num_workers=100000"], "data.num_workers: expected at most 256, got 100000"),
        (["data.prefetch=0"], "data.prefetch: expected at least 1, got 0"),
        (
            ["data.transforms.train_sides=[1000000]"],
            r"data.transforms.train_sides\[0\]: expected at most 16384, got 1000000",
        ),
        (
            ["data.transforms.max_side=100", "data.transforms.eval_side=200"],
            "data.transforms.max_side: .*eval_side, 200",
        ),
        (
            ["data.shapes.max_side=100000"],
            r"data.shapes.max_side: expected at most 4096, got 100000",
        ),
    ],
)
def test_a_setting_that_cannot_work_or_that_nothing_reads_is_named(overrides, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        run_config(*overrides)


@pytest.mark.parametrize("script", ["flops", "memory", "autotune"])
def test_scripts_that_take_a_model_name_what_nothing_reads(script: str):
    module = __import__(script)
    classes = {
        "flops": ["FlopsConfig"],
        "memory": ["MemoryConfig", "StepConfig"],
        "autotune": ["AutotuneConfig"],
    }[script]
    with initialize_config_dir(str(CONF), version_base=None):
        composed = OmegaConf.to_container(compose(script, ["+colour=red"]), resolve=True)
    known = [getattr(module, name) for name in classes]
    with pytest.raises(ConfigError, match="^colour: expected one of backbone, .*image_size.*, got 'colour'"):
        beside_model(composed, *known)
    del composed["colour"]
    assert len(beside_model(composed, *known)) == len(known)


def test_a_run_made_in_python_has_the_settings_of_the_published_groups():
    """But for the backbone's weights, which are random unless they are given."""
    groups = ("size=paper", "backbone=resnet50", "transforms=detr", "schedule=12ep", "backbone.weights=null")
    assert to_mapping(RunConfig(DataConfig("shapes", TransformConfig()))) == to_mapping(run_config(*groups))


@pytest.mark.parametrize(
    ("cls", "script", "overrides"),
    [
        (EvalConfig, "eval", ["checkpoint=x"]),
        (PredictConfig, "predict", ["checkpoint=x", "source=y"]),
        (ExportConfig, "export", ["checkpoint=x"]),
        (FeedingConfig, "feeding", []),
        (AttentionPlot, "visualize", ["draw=attention", "checkpoint=x", "image=y"]),
        (TrainingPlot, "visualize", ["draw=training", "runs=[x]"]),
        (ScorePlot, "visualize", ["draw=scores", "checkpoint=x"]),
    ],
)
def test_defaults_in_python_are_those_of_the_scripts(cls: type, script: str, overrides: list[str]):
    composed = settings(*overrides, script=script)
    needed = {field.name for field in fields(cls) if field.default is field.default_factory is MISSING}
    needed |= {text.split("=")[0] for text in overrides} & composed.keys()
    assert from_mapping(cls, {name: composed[name] for name in needed}) == from_mapping(cls, composed)


def test_the_encoder_on_the_command_line_wins():
    assert run_config("model=dino_4scale", "encoder=h3l1", "a=6", "b=1").model.encoder.update == "sequential"


def test_what_is_printed_reads_from_the_model_to_the_run():
    sections = list(settings())
    model = ["a", "b", "encoder", "attention", "backbone", "neck", "query_selection", "denoising", "hybrid", "decoder"]
    assert sections == [*model, "padding", "loss", "data", "schedule", "trainer", "run", "resume", "seed"]
    assert sorted(settings("model=h_detr")) == sorted(set(sections) - {"a", "b"})


@pytest.mark.parametrize(
    ("system", "size", "numbers"),
    [
        ("deformable_detr", "paper", (300, 0, 1024, 1024)),
        ("deformable_detr", "small", (60, 0, 256, 256)),
        ("lite_h_detr", "paper", (300, 1500, 2048, 2048)),
        ("lite_h_detr", "small", (60, 120, 256, 256)),
        ("dino_4scale", "paper", (900, 0, 2048, 2048)),
    ],
)
def test_numbers_that_depend_on_system_and_size(system: str, size: str, numbers: tuple[int, ...]):
    model = run_config(f"model={system}", f"size={size}").model
    widths = model.encoder.feedforward, model.decoder.feedforward
    assert (model.query_selection.num_queries, model.hybrid.num_queries, *widths) == numbers


@pytest.mark.parametrize(
    ("script", "groups"),
    [
        ("train", GROUPS),
        ("flops", DETECTOR_GROUPS),
        ("memory", DETECTOR_GROUPS),
        ("autotune", DETECTOR_GROUPS),
        ("eval", ("data", "transforms")),
        ("feeding", ("data", "transforms")),
        ("visualize", ("draw",)),
        ("predict", ()),
    ],
)
def test_help_says_what_the_script_does_and_lists_every_choice_of_its_groups(script: str, groups: tuple[str, ...]):
    """And no group that the script does not know."""
    module = __import__(script)
    offer_help(module.main)
    with initialize_config_dir(str(CONF), version_base=None):
        text = compose(script, return_hydra_config=True).hydra.help.template
    assert text.startswith(module.__doc__.strip())
    named = dict(re.findall(r"^  (\w+) {2,}.*\n((?: {17}.*\n)+)", text, re.MULTILINE))
    assert set(named) == set(groups)
    for group, choices in named.items():
        assert re.findall(r"\w+", choices) == sorted(path.stem for path in (CONF / group).glob("*.yaml")), group


@pytest.mark.parametrize(
    ("choice", "weight", "classification", "class_cost"),
    [
        ("published", None, {"name": "focal"}, {"name": "focal"}),
        ("varifocal", 1.0, {"name": "varifocal", "alpha": 0.75, "gamma": 2.0}, {"name": "focal"}),
        ("ia_bce", 1.0, {"name": "ia_bce", "alpha": 0.25, "gamma": 2.0}, {"name": "focal"}),
        (
            "position_supervised",
            6.0,
            {"name": "position_supervised", "alpha": 0.25, "gamma": 2.0, "power": 2.0},
            {"name": "position_modulated", "power": 0.5},
        ),
        ("matchability_aware", 2.0, {"name": "matchability_aware", "gamma": 1.5}, {"name": "focal"}),
    ],
)
def test_a_loss_says_its_settings_and_its_weight(
    choice: str, weight: float | None, classification: dict, class_cost: dict
):
    """The weight of size and model is that of the published loss only. A name alone has the settings of its file."""
    for system, published in (
        ("model=lite_dino size=small", 4.0),
        ("model=lite_dino size=paper", 1.0),
        ("model=h_detr size=paper", 2.0),
    ):
        loss = run_config(f"loss={choice}", *system.split()).loss
        chosen = {"classification": classification, "class_cost": class_cost}
        weights = LossConfig().weights | {"classes": published if weight is None else weight}
        assert to_mapping(loss) == to_mapping(LossConfig(weights=weights)) | chosen
        names = {part: settings["name"] for part, settings in chosen.items()}
        assert loss == LossConfig(weights=weights, **names)


def test_a_setting_of_a_loss_and_a_loss_by_its_name_alone():
    loss = run_config("loss=varifocal", "loss.classification.gamma=1.5", "loss.weights.classes=3").loss
    assert (loss.classification, loss.weights["classes"]) == (Varifocal(gamma=1.5), 3.0)
    assert run_config("loss.classification=varifocal").loss.classification == Varifocal()
    assert run_config("loss.focal_gamma=1.5").loss == replace(run_config().loss, focal_gamma=1.5)


PUBLISHED = [path.stem for path in sorted((CONF / "experiment").glob("coco_*.yaml"))]


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_published_experiments_have_nothing_that_came_later(experiment: str):
    config = run_config(f"experiment={experiment}", COCO)
    assert config.schedule.optimizer == "adamw"
    assert (config.loss.classification.name, config.loss.class_cost.name) == ("focal", "focal")
    assert config.data.transforms.augmentations == {}
    assert config.model.hybrid.num_queries == 0 or config.model.denoising.num_pairs == 0


def test_the_recipe_for_small_data_is_the_small_recipe_with_augmentation_and_scores_that_know_the_box():
    config, small = run_config("experiment=small_data", COCO), run_config()
    assert config.model == small.model
    assert replace(config.schedule, max_epochs=6, warmup_steps=150) == small.schedule
    assert config.schedule.optimizer == "muon"
    assert config.loss.classification == MatchabilityAware()
    assert config.data.transforms.augmentations == {"iou_crop": 0.5, "photometric_distortion": 0.5}
    assert config.data.transforms.closing_epochs > 0
    pretrained = run_config("experiment=small_data", COCO, "backbone=efficientnet_lite0", "schedule.backbone_lr=1e-4")
    assert pretrained.schedule.backbone_lr == 1e-4


def test_fine_tuning_begins_with_a_checkpoint_and_low_rates():
    config = run_config("experiment=finetune", COCO, "trainer.init_from=best.pt")
    assert (config.trainer.init_from, config.model.backbone.weights) == ("best.pt", None)
    published = run_config("experiment=coco_r50_12ep", COCO)
    assert config.model.neck == published.model.neck
    assert config.schedule.backbone_lr < config.schedule.lr < published.schedule.lr


def test_the_papers_setting():
    config = run_config("experiment=coco_r50_36ep", COCO)
    model = config.model
    assert (model.neck.channels, model.attention.num_heads, model.attention.num_points) == (256, 8, 4)
    assert (model.query_selection.num_queries, model.decoder.num_layers, model.encoder.feedforward) == (900, 6, 2048)
    assert (model.backbone.name, model.backbone.norm, model.backbone.frozen_stages) == ("resnet50", "frozen", 2)
    schedule = config.schedule
    assert (schedule.max_epochs, schedule.milestones, schedule.batch_size, schedule.clip_norm) == (36, (30,), 16, 0.1)
    assert (schedule.lr, schedule.backbone_lr, schedule.weight_decay) == (1e-4, 1e-5, 1e-4)
    transforms = config.data.transforms
    assert (min(transforms.train_sides), max(transforms.train_sides), transforms.max_side) == (480, 800, 1333)
    parameters = sum(p.numel() for p in build(config).parameters()) / 1e6
    assert 40 < parameters < 60


@pytest.mark.skipif(find_spec("transformers") is None, reason="an optional extra")
@pytest.mark.parametrize("name", ["swin", "convnext"])
def test_backbones_of_transformers(name):
    config = run_config(f"backbone.name=transformers:{name}")
    model = build_detector(config.model, num_classes=3).eval()
    from litedetr.structures import ImageBatch

    with torch.no_grad():
        output = model(ImageBatch.from_images([torch.randn(3, 70, 100), torch.randn(3, 64, 64)]))
    assert output.predictions.boxes.isfinite().all()
