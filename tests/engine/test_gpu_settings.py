"""PyTorch's switches for speed on a GPU. They exist without one."""

from collections.abc import Iterator

import pytest
import torch

from litedetr.engine.run_config import GpuSettings, TrainerConfig
from litedetr.settings import ConfigError


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


@pytest.mark.parametrize(
    ("tf32", "convolutions", "others"), [("never", False, False), ("convolutions", True, False), ("always", True, True)]
)
def test_tf32_is_where_it_is_wanted(tf32: str, convolutions: bool, others: bool):
    for benchmark in (True, False):
        GpuSettings(tf32=tf32, cudnn_benchmark=benchmark).apply()
        assert switches() == (convolutions, others, benchmark)


def test_by_default_pytorch_is_left_as_it_is():
    before = switches()
    GpuSettings().apply()
    assert switches() == before
    torch.backends.cuda.matmul.allow_tf32 = True  # as the user may have told it
    GpuSettings().apply()
    assert torch.backends.cuda.matmul.allow_tf32


def test_what_cannot_work_is_named():
    with pytest.raises(ConfigError, match="^gpu.tf32: expected one of 'default', 'never', 'convolutions' or 'always'"):
        GpuSettings(tf32=False)
    expected = "^trainer.gpu.cudnn_benchmark: expected false with trainer.deterministic=true, got True"
    with pytest.raises(ConfigError, match=expected):
        TrainerConfig(deterministic=True, gpu=GpuSettings(cudnn_benchmark=True))
