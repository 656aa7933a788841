"""What is counted as held: by hand, and beside what autograd and the optimiser say that they keep."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import MODEL
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from litedetr.engine.optim import build_optimizers
from litedetr.engine.run_config import detector_config
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.models import DetectorConfig
from litedetr.tools.memory import LiveBytes, SampleStep, StepConfig

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
STEP = StepConfig(image_size=(96, 128), batch_size=1, num_objects=3, num_classes=4, precision="fp32", average=True)


def sample(model: DetectorConfig = MODEL, **changes: object) -> SampleStep:
    return SampleStep(model, replace(STEP, **changes), CPU)


def recomputed(part: str) -> DetectorConfig:
    return replace(MODEL, **{part: replace(getattr(MODEL, part), activation_checkpointing=True)})


def test_storages_count_once_from_first_to_last_use():
    known = torch.zeros(256)
    with LiveBytes([known]) as live:
        view = known[:10]
        made = known + 1
        assert live.now == 1024
        part = made[3:].view(-1)
        del made
        assert (live.now, live.peak) == (1024, 1024)  # the view still holds all of it
        other = torch.ones(64, dtype=torch.bfloat16)
        assert live.now == 1024 + 128
        del part, other, view
        assert (live.now, live.peak) == (0, 1024 + 128)


def test_what_is_kept_is_what_autograd_saves():
    step = sample()
    own = {x.untyped_storage().data_ptr() for x in [*step.model.parameters(), *step.model.buffers()]}
    own.add(step.images.pixels.untyped_storage().data_ptr())
    saved = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = step.loss()
    expected = sum(size for address, size in saved.items() if address not in own)
    del loss
    memory = step.memory()
    assert memory.kept == pytest.approx(expected, rel=0.05)
    assert memory.peak >= memory.kept


def test_the_state_is_weights_gradients_moments_and_average():
    step = sample(replace(MODEL, backbone=replace(MODEL.backbone, frozen_stages=5)))
    (optimizer,) = build_optimizers(step.model, ScheduleConfig())
    step()
    optimizer.step()
    moments = sum(x.nbytes for s in optimizer.state.values() for name, x in s.items() if name != "step")
    memory = step.memory()
    weights = sum(x.nbytes for x in step.model.state_dict().values())
    assert (memory.parameters, memory.average, memory.moments) == (weights, weights, moments)
    assert memory.gradients == moments // 2 < weights
    assert memory.total == memory.state + memory.peak
    assert sample(average=False).memory().average == 0


def test_muon_keeps_one_moment_of_what_it_trains():
    step = sample(optimizer="muon")
    optimizers = build_optimizers(step.model, ScheduleConfig(optimizer="muon"))
    step()
    for optimizer in optimizers:
        optimizer.step()
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    assert step.memory().moments == sum(x.nbytes for state in states for name, x in state.items() if name != "step")
    assert step.memory().moments < sample().memory().moments


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_recomputed_layers_keep_less(part: str):
    assert sample(recomputed(part)).memory().kept < sample().memory().kept


def test_half_precision_and_fewer_images_keep_less():
    kept = sample(batch_size=2).memory().kept
    assert sample(batch_size=2, precision="bf16").memory().kept < kept
    assert 1.9 < kept / sample().memory().kept < 2.1


def test_the_row_of_the_recipe_is_the_recipe():
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        options = compose("memory").options
        row = OmegaConf.to_container(compose("memory", list(options["experiment=finetune"])), resolve=True)
        recipe = OmegaConf.to_container(compose("train", ["experiment=finetune"]), resolve=True)
    schedule, transforms = recipe["schedule"], recipe["data"]["transforms"]
    mine, theirs = detector_config(row), detector_config(recipe)
    assert mine == replace(theirs, backbone=mine.backbone)
    assert replace(mine.backbone, weights=None) == theirs.backbone
    assert row["batch_size"] == schedule["batch_size"] // schedule["grad_accum_steps"]
    assert row["image_size"] == [max(transforms["train_sides"]), transforms["max_side"]]
    assert (row["precision"], row["average"]) == (recipe["trainer"]["precision"], schedule["ema_decay"] is not None)
    assert row["optimizer"] == schedule["optimizer"]


def test_the_script_prints_a_row_for_each_option(tmp_path: Path):
    settings = ["size=small", "backbone=resnet18_slim", "a=1", "image_size=[64,64]", "rounds=1", "device=cpu"]
    options = ["~options", "+options={plain: [], half: ['precision=bf16']}"]
    command = [sys.executable, str(ROOT / "scripts" / "memory.py"), *settings, *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    head, plain, half = (line.split() for line in result.stdout.splitlines())
    assert (head[0], plain[0], half[0]) == ("MiB", "plain", "half")
    assert (plain[-1], half[-1]) == ("1.00", "-")  # half precision on a CPU is not timed
    assert int(plain[1]) > 0
