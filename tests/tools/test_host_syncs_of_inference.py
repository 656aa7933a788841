"""Nothing between a batch on the device and its packed detections waits for the device, so that a graph can hold it.

On the meta device: it has no numbers that the host could wait for, so that reading one raises. What the host makes and
sends there is seen by the modes below. The kernels are left out: they are operators of their own, whose insides no mode
sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_systems import LOCAL_SWIN, TINY, run_config
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litedetr.engine.precision import full_precision
from litedetr.models import Detector, build_detector, fold_frozen_norms
from litedetr.models.decoder import SelfAttention
from litedetr.postprocess import pack
from litedetr.structures import FeaturePyramid, ImageBatch

SYSTEMS = {
    "Lite DINO, shared keys": ["model=lite_dino"],
    "Lite DINO, own keys": ["model=lite_dino", "attention=key_aware"],
    "Lite DINO, joint": ["model=lite_dino", "encoder.update=joint"],
    "published padding": ["model=lite_dino", "padding=published"],
    "DINO": ["model=dino_4scale"],
    "Deformable DETR": ["model=deformable_detr"],
    "H-DETR": ["model=h_detr", "hybrid.num_queries=30"],
    "Lite H-DETR": ["model=lite_h_detr", "hybrid.num_queries=30"],
    "Swin-T": ["model=lite_dino", f"backbone.name={LOCAL_SWIN}"],
}
RESNET = ("backbone.name=resnet18", "backbone.norm=frozen", "backbone.width=16")


FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)


class HostTensors(TorchDispatchMode):
    """Names the operators that take or make a tensor of the CPU while it is entered."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.device.type == "cpu" for x in tree_leaves((args, kwargs, result))):
            self.names.append(str(func))
        return result


class HostNumbers(TorchFunctionMode):
    """Names the functions that make a tensor of the host's numbers while it is entered."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FROM_NUMBERS:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def from_the_host() -> Iterator[list[str]]:
    """Collects what brings something from the host to the device."""
    names: list[str] = []
    with HostTensors(names), HostNumbers(names):
        yield names


def detector(*system: str) -> Detector:
    with torch.device("meta"):
        model = build_detector(run_config(*TINY, *RESNET, *system).model, 3).eval()
    fold_frozen_norms(model)
    return model


def batch(padded: bool) -> ImageBatch:
    return ImageBatch(
        torch.empty(2, 3, 64, 96, device="meta"), torch.empty(2, 2, dtype=torch.long, device="meta"), padded
    )


@torch.no_grad()
def detect(model: Detector, images: ImageBatch) -> Tensor:
    """As `litedetr.engine.detect.Forward`, but for autocast, which knows no meta device."""
    return pack(full_precision(model(images).predictions))


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_detection_waits_for_nothing(system: list[str]):
    if SYSTEMS["Swin-T"] is system:
        pytest.importorskip("transformers", reason="an optional extra")
    model = detector(*system)
    for padded in (False, True):
        with from_the_host() as brought:
            packed = detect(model, batch(padded))
        assert packed.shape == (2, 60, 6)  # 20 queries of 3 classes
        assert brought == []


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if bool(x.amax() > 0) else -x,
        lambda x: x * len(x.sum(1).tolist()),
        lambda x: x * torch.tensor([2.0] * x.shape[-1], device=x.device),
        lambda x: x * x.new_tensor([2.0]),
        lambda x: x[x > 0].sum() + x,
        lambda x: x * torch.ones(x.shape[-1]).to(x.device),
    ],
    ids=["item", "bool", "tolist", "tensor", "new_tensor", "mask", "to"],
)
def test_what_waits_is_seen(waiting):
    model = detector("model=lite_dino")
    raised = []

    def wait(_: object, __: object, pyramid: FeaturePyramid) -> FeaturePyramid:
        try:
            return pyramid.with_tokens(waiting(pyramid.tokens))
        except (RuntimeError, NotImplementedError) as error:  # the meta device has no such number
            raised.append(error)
            return pyramid

    model.neck.register_forward_hook(wait)
    with from_the_host() as brought:
        detect(model, batch(padded=False))
    assert raised or brought


@pytest.mark.parametrize("padded", [False, True], ids=["one size", "padded"])
def test_queries_attend_to_each_other_without_a_mask_if_nothing_is_padded(padded: bool):
    """A mask keeps PyTorch from its fastest attention."""
    masks = []
    model = detector("model=lite_dino")
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[2]))
    detect(model, batch(padded))
    assert [mask is None for mask in masks] == [not padded] * 2
