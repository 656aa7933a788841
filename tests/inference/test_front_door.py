"""What `litedetr.load` and the dataclasses of settings take in Python, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import MODEL, run_config, train
from test_predictor import loaded_at, picture, same

import litedetr
from litedetr.data import ShapesConfig, TransformConfig
from litedetr.engine.checkpoint import load_detector
from litedetr.engine.distributed import Ranks, choose_device
from litedetr.engine.evaluate_checkpoint import EvalConfig
from litedetr.engine.precision import autocast, choose_precision
from litedetr.engine.run_config import TrainerConfig
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.inference.predict_files import PredictConfig
from litedetr.inference.predictor import Predictor
from litedetr.losses import LossConfig
from litedetr.models.detector_config import AttentionConfig
from litedetr.settings import ConfigError
from litedetr.tools.convert import ConvertConfig
from litedetr.tools.plots.plot_config import AttentionPlot, ScorePlot, TrainingPlot

CPU = torch.device("cpu")
NO_DEVICE = (
    "gpu",
    "mps",
    "xpu",
    "meta",
    "",
    " cpu",
    "cuda:",
    "cuda:x",
    "cuda:-1",
    torch.device("meta"),
    torch.device("mps"),
)
NO_DEVICE += (-1, True, 1.0, None, ["cpu"], torch.float32)
NO_PRECISION = ("half", "fp8", "FP16", "", "16", 16, None, True, torch.int8, torch.float64, ["fp16"], np.float16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(run_config(cache, schedule={"max_epochs": 1, "milestones": ()}), folder, Ranks(CPU))
    return folder


def offer_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


@pytest.mark.parametrize("number", [0, 2])
def test_devices_that_can_be_had(monkeypatch: pytest.MonkeyPatch, number: int):
    offer_gpus(monkeypatch, number)
    assert choose_device("auto") == torch.device("cuda" if number else "cpu")
    for device in ("cpu", CPU, torch.device("cpu", 0)):
        assert choose_device(device) == CPU
    for device in ("cuda", torch.device("cuda"), "cuda:1", torch.device("cuda:1"), 1):
        if number:
            assert choose_device(device) == torch.device("cuda:1" if "1" in str(device) else "cuda")
        else:
            with pytest.raises(ConfigError, match="^device: expected auto or cpu, as this machine offers no CUDA GPU"):
                choose_device(device)


@pytest.mark.parametrize("device", NO_DEVICE)
@pytest.mark.parametrize("number", [0, 2])
def test_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch, number: int, device: object):
    offer_gpus(monkeypatch, number)
    with pytest.raises(ConfigError, match="^device: expected auto, cpu, cuda or cuda:<number>, got "):
        choose_device(device)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch):
    offer_gpus(monkeypatch, 2)
    for device in (2, "cuda:2", torch.device("cuda", 2)):
        with pytest.raises(ConfigError, match="^device: expected cuda, or cuda:0 to cuda:1, .* got "):
            choose_device(device)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("fp32", ("fp32", "float32", torch.float32, torch.float)),
        ("bf16", ("bf16", "bfloat16", torch.bfloat16)),
        ("fp16", ("fp16", "float16", torch.float16, torch.half)),
    ],
)
def test_a_precision_is_the_one_asked_for(cache: Path, name: str, given: tuple[Any, ...]):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    for precision in given:
        assert choose_precision(precision) == name
        with autocast(CPU, precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert Predictor(loaded_at(cache), CPU, given[-1]).precision == name


@pytest.mark.parametrize("precision", NO_PRECISION)
def test_another_precision_is_refused(cache: Path, precision: object):
    for use in (
        choose_precision,
        lambda value: autocast(CPU, value),
        lambda value: Predictor(loaded_at(cache), CPU, value),
    ):
        with pytest.raises(ConfigError, match="^precision: expected one of fp32, bf16, fp16, or the same dtype, got "):
            use(precision)


def test_the_front_door_takes_what_its_words_say(trained: Path):
    expected = litedetr.load(trained, "cpu").predict(picture(), threshold=0)[0]
    for arguments in ((str(trained), CPU), (trained / "best.pt", "auto", torch.float32)):
        assert same(litedetr.load(*arguments).predict(picture(), threshold=0)[0], expected)
    half = litedetr.load(trained, precision="float16").predict(picture(), threshold=0)[0]
    assert not torch.equal(half.scores, expected.scores)


def test_mistakes_at_the_front_door_are_named(trained: Path):
    with pytest.raises(ConfigError, match="^device: "):
        litedetr.load(trained, "gpu")
    with pytest.raises(ConfigError, match="^precision: "):
        litedetr.load(trained, precision="half")
    for checkpoint in (None, 5, b"best.pt", "", ["best.pt"]):
        with pytest.raises(ConfigError, match="^checkpoint: expected .*, got "):
            litedetr.load(checkpoint)
    with pytest.raises(ConfigError, match="^loaded: expected what load_detector gives, got "):
        Predictor(trained)
    for backend in ("", "cuda", True):
        with pytest.raises(ConfigError, match="^attention.backend: expected "):
            load_detector(trained / "best.pt", backend)
    assert load_detector(trained / "best.pt", "reference").model is not None


MISTAKES = [
    (
        PredictConfig,
        {"checkpoint": "a", "source": "b", "device": "gpu"},
        "device: expected one of 'auto', 'cpu' or 'cuda'",
    ),
    (PredictConfig, {"checkpoint": "a", "source": "b", "precision": "half"}, "precision: expected one of 'fp32'"),
    (
        PredictConfig,
        {"checkpoint": "a", "source": "b", "threshold": "high"},
        "threshold: expected a number",
    ),
    (PredictConfig, {"checkpoint": "a", "source": None}, "source: expected text"),
    (PredictConfig, {"checkpoint": "a", "source": "b", "pictures": "no"}, "pictures: expected true or false"),
    (EvalConfig, {"checkpoint": "a", "batch_size": True}, "batch_size: expected an integer"),
    (EvalConfig, {"checkpoint": "a", "precision": "float16"}, "precision: expected one of"),
    (TrainerConfig, {"device": "gpu"}, "trainer.device: expected one of"),
    (TrainerConfig, {"device": 0}, "trainer.device: expected one of"),
    (TrainerConfig, {"compile": 1}, "trainer.compile: expected true or false"),
    (TrainerConfig, {"checkpoint_every": 1.5}, "trainer.checkpoint_every: expected an integer"),
    (ScheduleConfig, {"lr": "fast"}, "schedule.lr: expected a number"),
    (ScheduleConfig, {"lr": float("nan")}, "schedule.lr: expected a finite number"),
    (ScheduleConfig, {"milestones": 3}, "schedule.milestones: expected a list"),
    (ScheduleConfig, {"betas": (0.9,)}, "schedule.betas: expected a list of 2"),
    (LossConfig, {"focal_alpha": None}, "loss.focal_alpha: expected a number"),
    (LossConfig, {"cost": 3}, "loss.cost: expected a mapping"),
    (AttentionConfig, {"backend": "cuda"}, "attention.backend: expected one of"),
    (AttentionConfig, {"sampling": "discrete"}, "attention.sampling: expected one of"),
    (AttentionConfig, {"num_heads": "8"}, "attention.num_heads: expected an integer"),
    (ShapesConfig, {"seed": None}, "data.shapes.seed: expected an integer"),
    (
        TransformConfig,
        {"train_sides": ("a",), "max_side": 9, "eval_side": None, "flip": 0, "crop": False},
        r"data.transforms.train_sides\[0\]: expected an integer",
    ),
    (EvalConfig, {"checkpoint": "a", "data": 3}, "data: expected a mapping"),
    (AttentionPlot, {"checkpoint": "a", "image": 3}, "image: expected text"),
    (TrainingPlot, {"runs": "runs/a"}, "runs: expected a list"),
    (ScorePlot, {"runs": ("a",), "iou": "half"}, "iou: expected a number"),
    (ConvertConfig, {"published": 3, "out": "a"}, "published: expected text"),
]


@pytest.mark.parametrize(("cls", "settings", "message"), MISTAKES)
def test_settings_made_in_python_are_checked_as_those_of_files(cls: type, settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        cls(**settings)


def test_settings_made_in_python_have_their_types():
    config = ScheduleConfig(lr=1, milestones=[3, np.int64(5)], weight_decay=np.float32(0.5), clip_norm=None)
    assert config == ScheduleConfig(lr=1.0, milestones=(3, 5), weight_decay=0.5, clip_norm=None)
    assert [type(value) for value in (config.lr, config.milestones[1], config.weight_decay)] == [float, int, float]
    assert PredictConfig(Path("runs/a"), Path("photos")).checkpoint == "runs/a"
    assert MODEL.attention is type(MODEL)(**vars(MODEL)).attention
