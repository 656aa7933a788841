"""ResNet under torchvision's names, its weights, and what is trained of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litedetr.models import load_backbone_weights
from litedetr.models.backbones import build_backbone
from litedetr.models.backbones.padding import FrozenBatchNorm, MaskedGroupNorm, PaddingMask, convolve
from litedetr.models.detector_config import BackboneConfig
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

ROOT = Path(__file__).parents[2]
# parameters of torchvision's models without their classifier, from its documentation minus 1000 (C + 1)
PARAMETERS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032, "resnet101": 42_500_160}


def resnet(name="resnet18", outputs=3, **settings):
    return build_backbone(BackboneConfig(name, **{"width": 8, "frozen_stages": 0, **settings}), outputs, True)


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_parameters_as_torchvision(name):
    """Its batch norms' weights and biases are parameters there and buffers here, where they are fixed."""
    with torch.device("meta"):
        model = resnet(name, width=64)
    state = {key: value for key, value in model.state_dict().items() if "running" not in key}
    assert sum(value.numel() for value in state.values()) == PARAMETERS[name]


def test_names_are_torchvisions():
    names = set(resnet("resnet50").state_dict())
    expected = {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.running_var",
        "layer3.5.conv3.weight",
        "layer4.2.bn2.bias",
    }
    assert expected <= names
    assert "layer2.1.downsample.0.weight" not in names


@pytest.mark.parametrize(("outputs", "strides"), [(1, [32]), (3, [8, 16, 32]), (4, [4, 8, 16, 32])])
def test_strides_and_sizes(outputs, strides):
    maps = resnet(outputs=outputs)(ImageBatch.from_images([torch.randn(3, 97, 130)]))
    assert [m.stride for m in maps] == strides
    assert [tuple(m.values.shape[-2:]) for m in maps] == [(-(-97 // s), -(-130 // s)) for s in strides]


@pytest.mark.parametrize(
    ("frozen", "trained"), [(0, {"conv1", "layer1", "layer2"}), (2, {"layer2"}), (3, set()), (5, set())]
)
def test_frozen_stages(frozen, trained):
    model = resnet(frozen_stages=frozen)
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning & {"conv1", "layer1", "layer2"} == trained


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_masked_norm_of_large_half_precision_values_is_that_of_full_precision(dtype):
    """Their squares are beyond fp16; a mean rounded to bf16 would be seen too."""
    torch.manual_seed(0)
    x = (torch.randn(2, 8, 40, 40) * 500 + 3000).to(dtype)
    mask = PaddingMask(torch.tensor([[40, 40], [17, 40]]))
    norm = MaskedGroupNorm(2, 8)
    assert torch.equal(norm(x, mask), norm(x.float(), mask))


def torchvision_file(path, **changes):
    """A file as torchvision saves it: counters of batches and a classifier come along."""
    state = {name: torch.randn_like(value) for name, value in resnet().state_dict().items()}
    state |= {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10), "bn1.num_batches_tracked": torch.tensor(3)}
    torch.save(state | changes, path)
    return state


def test_weights_load_without_the_classifier(tmp_path):
    state = torchvision_file(tmp_path / "weights.pth")
    model = resnet()
    load_backbone_weights(model, str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer9.weight": torch.zeros(1)}, "unexpected: layer9.weight"),
        ({"conv1.weight": torch.zeros(1)}, r"of other shape: conv1.weight \(1,\), not \(8, 3, 7, 7\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    torchvision_file(tmp_path / "weights.pth", **change)
    before = resnet()
    with pytest.raises(ConfigError, match=f"backbone.weights: .*{message}"):
        load_backbone_weights(before, str(tmp_path / "weights.pth"))


def test_weights_of_another_depth_name_what_is_missing(tmp_path):
    torchvision_file(tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="missing: layer1.2.bn1.bias, "):
        load_backbone_weights(resnet("resnet34"), str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [("nowhere.pth", "no such file: nowhere.pth"), ("http://localhost:9/weights.pth", "could not be downloaded")],
)
def test_weights_that_cannot_be_had(weights, message):
    with pytest.raises(ConfigError, match=f"backbone.weights: .*{message}"):
        load_backbone_weights(resnet(), weights)


def test_a_file_that_is_no_weights(tmp_path):
    (tmp_path / "weights.pth").write_text("hello")
    with pytest.raises(ConfigError, match="backbone.weights: .* is no PyTorch state dict"):
        load_backbone_weights(resnet(), str(tmp_path / "weights.pth"))


def test_a_frozen_batch_norm_is_that_of_torch():
    torch.manual_seed(0)
    conv, norm, theirs = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False), FrozenBatchNorm(8), torch.nn.BatchNorm2d(8).eval()
    state = {name: torch.rand(8) + 0.5 for name in norm.state_dict()}
    norm.load_state_dict(state)
    theirs.load_state_dict(state, strict=False)
    x = torch.randn(2, 3, 9, 11)
    assert torch.allclose(convolve(x, conv, norm, None), theirs(conv(x)), atol=1e-5)


def test_the_narrowest_backbone_learns_from_large_images():
    """In a process of its own: with its maps channels last, oneDNN overwrites the heap, and the process is killed."""
    code = (
        "import torch\n"
        "from litedetr.models.backbones.resnet import ResNet\n"
        "from litedetr.structures import ImageBatch\n"
        "torch.set_num_threads(1)\n"
        "model = ResNet('resnet18', 'group', 8, 0, 1, True)\n"
        "for _ in range(3):\n"
        "    image = ImageBatch(torch.randn(1, 3, 512, 512), torch.tensor([[512, 512]]), False)\n"
        "    model(image)[0].values.square().sum().backward()\n"
        "assert all(p.grad.isfinite().all() for p in model.parameters())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
