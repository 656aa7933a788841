"""The linear layers that a CPU gets, whichever library computes them."""

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from engine_helpers import run_config, train
from model_helpers import random_images, small_config
from torch import nn

from litedetr.engine.checkpoint import load_detector
from litedetr.engine.detect import inference_copy
from litedetr.engine.distributed import Ranks
from litedetr.inference.predictor import Predictor
from litedetr.models import Detector, build_detector
from litedetr.models.onednn_linear import LEAST_WORK, OneDnnLinear, use_onednn_linears
from litedetr.structures import ImageBatch
from litedetr.tools.memory import SampleStep, StepConfig

CPU = torch.device("cpu")


def onednn_linear() -> nn.Linear:
    layer = nn.Linear(64, 48)
    use_onednn_linears(layer)
    return layer


def grads(layer: nn.Linear, x: torch.Tensor, function) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = function(x)
    return [out, *torch.autograd.grad(out.square().sum(), (x, layer.weight, layer.bias))]


def operators(layer: nn.Module, x: torch.Tensor) -> set[str]:
    with torch.profiler.profile() as profile:
        layer(x)
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("shape", [(2, 300, 64), (1, 4096, 64), (3, 5, 64), (600, 64), (2, 3, 100, 64), (0, 300, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_output_and_gradients_are_those_of_a_linear_layer(shape, dtype):
    torch.manual_seed(0)
    layer, x = onednn_linear().to(dtype), torch.randn(shape).to(dtype)
    expected = grads(layer, x, lambda x: F.linear(x, layer.weight, layer.bias))
    for mine, theirs in zip(grads(layer, x, layer), expected, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


def test_strided_tokens():
    layer, x = onednn_linear(), torch.randn(2, 900, 64)[:, 100:700]
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)
    assert layer(x).is_contiguous()


@pytest.mark.parametrize(("tokens", "convolved"), [(LEAST_WORK // (64 * 48) + 1, True), (8, False)])
def test_only_large_products_become_convolutions(tokens, convolved):
    assert ("aten::conv2d" in operators(onednn_linear(), torch.randn(1, tokens, 64))) == convolved


def test_a_compiler_sees_a_linear_layer():
    program = torch.export.export(onednn_linear(), (torch.randn(1, 4096, 64),))
    assert {node.target for node in program.graph.nodes if node.op == "call_function"} == {
        torch.ops.aten.linear.default
    }


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_layer_computes_the_same(backend: str):
    layer, x = onednn_linear(), torch.randn(1, 4096, 64)
    assert torch.allclose(torch.compile(layer, backend=backend, fullgraph=True)(x), layer(x), atol=1e-5)


def test_only_the_class_changes():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(64, 48), Own(48, 8))
    parameters, names, called = list(model.parameters()), list(model.state_dict()), []
    model[0].register_forward_hook(lambda *_: called.append(True))
    first = model[0]
    for _ in range(2):  # the second time changes nothing
        use_onednn_linears(model)
        assert model[0] is first
        assert [type(module) for module in model] == [OneDnnLinear, Own]
        assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
        assert list(model.state_dict()) == names
    model(torch.randn(1, 4096, 64))
    assert called == [True]


def test_copies_and_pickles_are_swapped_too():
    layer, x, file = onednn_linear(), torch.randn(1, 4096, 64), io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert "aten::conv2d" in operators(other, x)
        assert torch.equal(other(x), layer(x))


def plain(model: nn.Module) -> list[str]:
    """Names of the linear layers behind the backbone that are not swapped."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert len(linears) > 20
    return [name for name, module in linears.items() if type(module) is nn.Linear and not name.startswith("backbone.")]


def test_a_detector_swaps_its_layers_on_a_cpu():
    model = build_detector(small_config(), 3)
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
    assert model.to_device(torch.device("meta")) is model
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
    model = build_detector(small_config(), 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.to_device(CPU) is model
    assert not plain(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not plain(model.to("meta"))  # and stays usable on another device
    images = ImageBatch(torch.empty(1, 3, 96, 128, device="meta"), torch.empty(1, 2, device="meta"), padded=False)
    assert model(images).predictions.boxes.is_meta


def test_the_backbone_keeps_its_own_linear_layers():
    pytest.importorskip("transformers")
    backbone = {"name": "transformers:swin", "frozen_stages": 0}
    model = build_detector(small_config(backbone=backbone), 3).to_device(CPU)
    of_backbone = [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]
    assert {type(module) for module in of_backbone} == {nn.Linear}
    assert not plain(model)
    lowered = inference_copy(model, CPU, "bf16")
    assert {m.weight.dtype for m in lowered.backbone.modules() if isinstance(m, nn.Linear)} == {torch.float32}
    assert {m.weight.dtype for m in lowered.encoder.modules() if isinstance(m, nn.Linear)} == {torch.bfloat16}


def step(model: Detector) -> dict[str, torch.Tensor]:
    output = model(ImageBatch.from_images([x.float() for x in random_images((96, 128))]))
    output.predictions.class_logits.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_a_swapped_detector_learns_the_same():
    torch.manual_seed(0)
    model = build_detector(small_config(), 3)
    expected = step(copy.deepcopy(model))
    for name, grad in step(model.to_device(CPU)).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-4)


def test_all_that_runs_on_a_cpu_is_swapped(cache: Path, tmp_path: Path, one_rank: Ranks):
    """The trainer's model and its average, a loaded detector, what detects, and what memory is measured of."""
    trainer = train(run_config(cache, trainer={"stop_after": 1}), tmp_path / "run", one_rank)
    assert not plain(trainer.state.model)
    assert not plain(trainer.state.average.model)
    loaded = load_detector(tmp_path / "run" / "last.pt")
    assert not plain(loaded.model)
    assert not plain(inference_copy(loaded.model, CPU, "fp32"))
    assert not plain(Predictor(loaded, device="cpu").model)
    step = StepConfig(image_size=(96, 128), batch_size=1, num_objects=3, num_classes=4, precision="fp32", average=True)
    assert not plain(SampleStep(loaded.config.model, step, CPU).model)
