"""Every row of docs/systems.md composes and builds as written; at a small size it trains for a step, evaluates and is
pickled.
"""

import pickle
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from litedetr.engine.distributed import Ranks
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.run_config import RunConfig
from litedetr.engine.train_step import TrainStep
from litedetr.losses import Criterion
from litedetr.models import build_detector
from litedetr.postprocess import pack, unpack
from litedetr.structures import ImageBatch, Target, TargetBatch

ROOT = Path(__file__).parent.parent
# | table | system | `command` | AP | GFLOPs | encoder |
ROW = re.compile(r"^\| \d \| (?P<system>[^|]+) \| `(?P<command>experiment=[^`]+)` \| ", re.MULTILINE)
SYSTEMS = {row["command"]: row["system"] for row in ROW.finditer((ROOT / "docs" / "systems.md").read_text())}
LITE = ("lite_dino", "lite_deformable_detr", "lite_h_detr")
LOSSES = ("varifocal", "ia_bce", "position_supervised", "matchability_aware")
WITH_LOSSES = [f"model={model} loss={loss}" for model in LITE for loss in LOSSES]
OTHERS = (
    "model=dino_5scale",
    "model=lite_dino encoder=h3l1 a=3 b=2",
    "model=lite_dino attention=key_aware",
    "model=lite_dino attention.sampling=nearest",
    *WITH_LOSSES,
    "model=lite_h_detr encoder=h2l2 attention.sampling=nearest",
)
COCO = "data.root=/data/coco"
LOCAL_SWIN = "transformers:swin"  # Swin-T's layout without the hub; size and weights do not matter here
TINY = (
    "transforms=native",
    "data=shapes",
    "size=small",
    "neck.channels=32",
    "neck.norm_groups=8",
    "attention.num_heads=2",
    "decoder.num_layers=2",
    "query_selection.num_queries=20",
    "decoder.feedforward=32",
)
SLIM = ("backbone.name=resnet18", "backbone.norm=group", "backbone.width=8", "backbone.frozen_stages=0")
SIZE = (64, 96)


def run_config(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        settings = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    return RunConfig.from_settings(settings)


def tiny_config(command: str) -> RunConfig:
    """The row's system at widths that cost a second; its backbone is kept apart from the width."""
    hybrid = ["hybrid.num_queries=30"] if "h_detr" in command else []
    return run_config(*command.split(), *TINY, *hybrid, *(local_swin(command) or SLIM))


def local_swin(command: str) -> list[str]:
    """What replaces the hub's Swin-T; nothing for a ResNet."""
    if "backbone=swin_t" not in command.split():
        return []
    if find_spec("transformers") is None:
        pytest.skip("transformers is an optional extra")
    return [f"backbone.name={LOCAL_SWIN}"]


def some_images() -> tuple[ImageBatch, TargetBatch]:
    torch.manual_seed(0)
    items = [Target(torch.randint(3, (n,)), torch.rand(n, 4) * 0.3 + 0.3, n, SIZE) for n in (2, 1)]
    return ImageBatch.from_images([torch.randn(3, *SIZE), torch.randn(3, 64, 72)]), TargetBatch.from_targets(items)


def test_the_document_has_the_papers_systems():
    assert len(SYSTEMS) == 28
    assert {system.split(" ")[0] for system in SYSTEMS.values()} >= {"Swin-T", "ResNet-50", "Deformable", "DINO"}


def tiny_step(command: str) -> TrainStep:
    config = tiny_config(command)
    torch.manual_seed(0)
    model = build_detector(config.model, num_classes=3).train()
    return TrainStep(
        model=model,
        criterion=Criterion(config.loss),
        update=WeightUpdate.build(model, config.schedule, "fp32"),
        precision="fp32",
        seed=0,
        ranks=Ranks(torch.device("cpu")),
    )


@pytest.mark.parametrize("command", [*SYSTEMS, *OTHERS])
def test_a_system_trains_for_a_step_and_evaluates(command):
    step = tiny_step(command)
    model = step.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    images, targets = some_images()
    result = step(0, [(images, targets)])
    assert 0 < result.loss < 1e4
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # without a gradient a parameter would stop training on several processes
    assert [name for name, p in trained.items() if p.grad is None] == []
    moved = [name for name, p in trained.items() if not torch.equal(p, before[name])]
    assert len(moved) > 0.7 * len(trained)  # the last box layers start at zero, what lies behind them waits a step

    with torch.no_grad():
        output = model.eval()(images)
    assert (output.denoising, output.one_to_many) == (None, None)
    detections = unpack(pack(output.predictions), [(120, 200), (80, 90)])
    assert [len(d) > 0 and d.boxes.isfinite().all().item() for d in detections] == [True, True]

    travelled = pickle.loads(pickle.dumps(model, 2))  # the protocol of torch.save
    with torch.no_grad():
        assert torch.equal(travelled(images).predictions.boxes, output.predictions.boxes)


@pytest.mark.parametrize("command", WITH_LOSSES)
def test_every_loss_is_learned_by_every_system(command: str):
    """It falls on a batch that is seen again and again."""
    step, batch = tiny_step(f"{command} schedule.warmup_steps=0 schedule.lr=1e-3"), some_images()
    losses = [step(0, [batch]).loss for _ in range(8)]  # of one number: with the same noise
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("command", SYSTEMS)
def test_a_system_builds_at_the_papers_size(command):
    config = run_config(*command.split(), COCO, *local_swin(command)).model
    with torch.device("meta"):
        model = build_detector(config, num_classes=80)
    system = SYSTEMS[command]
    assert config.backbone.name == (LOCAL_SWIN if system.startswith("Swin-T") else "resnet50")
    assert (config.neck.channels, model.decoder.layers[0].cross_attention.num_heads) == (256, 8)
    split = re.search(r"H(\d)L(\d)-\((\d)\+1\)x(\d)", system)
    if split:
        high, low, a, b = map(int, split.groups())
        encoder = config.encoder
        assert (encoder.num_high_levels, config.neck.num_levels - high) == (high, low)
        assert (encoder.num_high_layers, encoder.num_blocks) == (a, b)
    lite = "Lite" in system or "KDA" in system
    assert (config.attention.encoder == "key_aware_shared") == lite


@pytest.mark.parametrize(
    ("command", "millions"),
    [
        ("experiment=coco_r50_50ep_deformable_detr", 41.16),
        ("experiment=coco_r50_50ep_deformable_detr model=lite_deformable_detr encoder=h3l1 a=2 b=3", 42.55),
        ("experiment=coco_r50_36ep model=dino_4scale", 46.88),
        ("experiment=coco_r50_36ep_h_detr", 47.93),
    ],
)
def test_parameters_at_the_papers_size(command, millions):
    """Deformable DETR's authors say 41 million; Lite DETR says 40, and 41 of its Lite form (Table 3)."""
    with torch.device("meta"):
        model = build_detector(run_config(*command.split(), COCO).model, num_classes=80)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_deformable_detr_and_h_detr_at_the_papers_size():
    config = run_config("experiment=coco_r50_50ep_deformable_detr", COCO)
    schedule, model = config.schedule, config.model
    assert (schedule.max_epochs, schedule.milestones) == (50, (40,))
    assert (schedule.lr, schedule.sampling_offsets_lr) == (2e-4, 2e-5)
    assert (model.query_selection.num_queries, model.query_selection.kind) == (300, "two_stage")
    assert (model.encoder.feedforward, model.decoder.feedforward, model.decoder.dropout) == (1024, 1024, 0.1)
    assert (model.decoder.heads, model.decoder.look_forward_twice) == ("per_layer", False)
    assert (model.attention.encoder, model.denoising.num_pairs) == ("deformable", 0)
    assert config.loss.weights["classes"] == 2.0

    model = run_config("experiment=coco_r50_36ep_h_detr", COCO).model
    assert (model.query_selection.num_queries, model.query_selection.kind) == (300, "two_stage_mixed")
    assert (model.hybrid.num_queries, model.hybrid.num_repeats) == (1500, 6)
    assert (model.encoder.feedforward, model.decoder.feedforward, model.decoder.dropout) == (2048, 2048, 0.0)
    assert (model.decoder.heads, model.decoder.look_forward_twice) == ("per_layer", True)


def test_lite_forms_are_key_aware_in_the_encoder_alone():
    for name in ("lite_deformable_detr", "lite_h_detr"):
        attention = run_config(f"model={name}", "size=paper").model.attention
        assert (attention.encoder, attention.decoder) == ("key_aware_shared", "deformable")


@pytest.mark.parametrize("kind", ["key_aware_shared", "deformable"])
@pytest.mark.parametrize("model", ["dino_3scale", "lite_dino", "lite_h_detr"])
def test_key_aware_attention_is_a_switch_of_its_own(model, kind):
    chosen, plain = (run_config(f"model={model}", *extra).model for extra in ([f"attention={kind}"], []))
    assert chosen.attention.encoder == kind
    assert (chosen.encoder, chosen.decoder, chosen.neck) == (plain.encoder, plain.decoder, plain.neck)
