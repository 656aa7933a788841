"""PyTorch's switches for speed on a GPU. They exist without one."""

from collections.abc import Iterator

import pytest
import torch

from litedetr.config import ConfigError
from litedetr.engine import TrainerConfig
from litedetr.engine.gpu_settings import GpuSettings


def switches() -> tuple[bool, bool, bool]:
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = switches()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before


def test_the_defaults_are_those_of_pytorch():
    before = switches()
    GpuSettings(tf32="always", cudnn_benchmark=True).apply()
    assert switches() == (True, True, True) != before
    GpuSettings().apply()
    assert switches() == before


def test_single_precision_may_be_exact():
    GpuSettings(tf32="never").apply()
    assert switches() == (False, False, False)


def test_what_cannot_work_is_named():
    with pytest.raises(ConfigError, match="^GpuSettings.tf32: expected one of 'never', 'convolutions', 'always'"):
        GpuSettings(tf32="sometimes")
    expected = "^trainer.gpu.cudnn_benchmark: expected false with trainer.deterministic=true, got True"
    with pytest.raises(ConfigError, match=expected):
        TrainerConfig(deterministic=True, gpu=GpuSettings(cudnn_benchmark=True))
