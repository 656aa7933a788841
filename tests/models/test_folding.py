"""Frozen norms that are folded into their convolutions once, and the layout of convolutions' weights."""

import copy
import io
import pickle

import pytest
import torch
from model_helpers import small_config
from torch import nn

from litedetr.models import Detector, build_detector, fold_frozen_norms
from litedetr.models.backbones import build_backbone
from litedetr.models.backbones.padding import FrozenBatchNorm
from litedetr.models.detector_config import BackboneConfig
from litedetr.structures import ImageBatch

WIDE = {"backbone": {"norm": "frozen", "width": 16, "frozen_stages": 1}}


def backbone(name: str, width: int = 16, norm: str = "frozen", exact: bool = True) -> nn.Module:
    """With norms that do something."""
    torch.manual_seed(0)
    model = build_backbone(BackboneConfig(name, norm=norm, width=width, frozen_stages=0), 4, exact).eval()
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm):
            for buffer in module.buffers():
                buffer.uniform_(0.5, 1.5)
    return model


def batch(*sizes: tuple[int, int]) -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch.from_images([torch.randn(3, *size) for size in sizes])


@torch.no_grad()
def same_maps(a: nn.Module, b: nn.Module, images: ImageBatch) -> bool:
    return all(torch.equal(x.values, y.values) for x, y in zip(a(images), b(images), strict=True))


@pytest.mark.parametrize("images", [batch((65, 90)), batch((64, 96), (48, 70))], ids=["one size", "padded"])
@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 8), ("resnet18", 16), ("resnet50", 16), ("efficientnet_lite0", 64)]
)
def test_a_folded_backbone_computes_the_same_bits(name: str, width: int, images: ImageBatch):
    model = backbone(name, width)
    folded = copy.deepcopy(model)
    fold_frozen_norms(folded)
    assert not any(isinstance(module, FrozenBatchNorm) for module in folded.modules())
    assert same_maps(model, folded, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_maps(model, folded, images)
    for copied in (pickle.loads(pickle.dumps(folded, 2)), copy.deepcopy(folded)):
        assert same_maps(model, copied, images)


def test_only_frozen_norms_are_folded():
    model = backbone("resnet18", norm="group")
    before = copy.deepcopy(model.state_dict())
    fold_frozen_norms(model)
    assert model.state_dict().keys() == before.keys()


def test_weights_of_the_unfolded_model_are_rejected_by_the_folded_one_and_back():
    model = backbone("resnet18")
    folded = copy.deepcopy(model)
    fold_frozen_norms(folded)
    with pytest.raises(RuntimeError, match=r"Missing key.*conv1\.bias[\s\S]*Unexpected key.*bn1\.weight"):
        folded.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*bn1\.weight"):
        model.load_state_dict(folded.state_dict())


def wide_detector() -> Detector:
    torch.manual_seed(0)
    return build_detector(small_config(**WIDE), 3)


def large(model: nn.Module) -> list[torch.Tensor]:
    """Weights of convolutions with 3x3 pixels and more than one channel: whose layouts differ in memory."""
    parts = (model.backbone, model.neck)
    return [p for part in parts for p in part.parameters() if p.ndim == 4 and p.shape[-1] > 1]


def channels_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def test_the_layout_of_weights_stays_through_all_that_happens_to_a_model():
    model, plain = wide_detector(), wide_detector()
    model.use_channels_last()
    assert len(large(model)) > 10
    model.load_state_dict(plain.state_dict())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [model, copy.deepcopy(model), torch.load(file, weights_only=False)]
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    for one in copies:
        assert all(channels_last(p) for p in large(one))
        assert all(p.is_contiguous() for name, p in one.named_parameters() if not name.startswith(("backbone", "neck")))
    trained = [p for p in large(model) if p.requires_grad]
    assert all(channels_last(p.grad) and channels_last(optimizer.state[p]["exp_avg"]) for p in trained)
    plain.load_state_dict(model.state_dict())  # as a checkpoint of a GPU is loaded on a CPU
    assert all(p.is_contiguous() for p in large(plain))


def test_on_a_cpu_and_in_the_narrowest_backbone_weights_keep_their_layout():
    """A CPU's training keeps its bits; with 8 channels oneDNN overwrites memory."""
    assert all(p.is_contiguous() for p in large(wide_detector().to_device(torch.device("cpu"))))
    narrow = build_detector(small_config(), 3)
    narrow.use_channels_last()
    assert all(p.is_contiguous() for p in large(narrow))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_weights_are_channels_last():
    model = wide_detector().to_device(torch.device("cuda"))
    assert all(channels_last(p) for p in large(model))
    model.float()(ImageBatch.from_images([torch.randn(3, 64, 96)]).to("cuda"))
