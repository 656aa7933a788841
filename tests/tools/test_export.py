"""Exported files, run as their users run them, and the check that they pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import MODEL, run_config
from PIL import Image
from torch import Tensor

from litedetr.data import Categories, DataConfig, TransformConfig, to_pixels
from litedetr.engine.checkpoint import Checkpoint, Progress, load_detector, save_checkpoint
from litedetr.models import DetectorConfig, build_detector, level_shapes
from litedetr.models.detector_config import BackboneConfig, HybridConfig
from litedetr.postprocess import pack, unpack
from litedetr.settings import ConfigError, to_mapping
from litedetr.structures import ImageBatch
from litedetr.tools.convert import NO_ROOT
from litedetr.tools.export import export_checkpoint as export_module
from litedetr.tools.export import file_formats
from litedetr.tools.export.check_images import check_batches, images_to_check_on
from litedetr.tools.export.compare import compare
from litedetr.tools.export.deployed_detector import DeployedDetector, smallest_side, trace
from litedetr.tools.export.export_checkpoint import export_checkpoint, image_sides
from litedetr.tools.export.export_config import ExportConfig
from litedetr.tools.export.file_formats import ExportError, TorchExport
from litedetr.tools.export.onnx_group_norm import translations

pytestmark = pytest.mark.skipif(not file_formats.torch_can_trace(), reason="export needs a later torch")
SHAPES = Categories(("circle", "ring", "square", "triangle", "star"), (1, 2, 3, 4, 5))
TRACED = (96, 128)
CHECKED = ((1, 66, 131), (3, 100, 70), (2, 96, 96))


def save_random(path: Path, cache: Path, config: DetectorConfig = MODEL) -> Path:
    """Random weights everywhere, also where initialisation has zeros, which would hide mistakes."""
    torch.manual_seed(0)
    model = build_detector(config, len(SHAPES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    run = to_mapping(replace(run_config(cache), model=config))
    save_checkpoint(path, Checkpoint(run, SHAPES, model.state_dict(), None, {}, {}, Progress(), 1))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    return save_random(tmp_path_factory.mktemp("export") / "best.pt", cache)


def settings(checkpoint: Path, kind: str, **others) -> ExportConfig:
    usual = {"device": "cpu", "image_size": TRACED, "check_sizes": CHECKED, "check_images": "noise"}
    return ExportConfig(str(checkpoint), kind, **(usual | others))


@pytest.fixture(scope="module")
def onnx_file(checkpoint: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="an optional extra")
    return export_checkpoint(settings(checkpoint, "onnx"), say=lambda _: None).path


@pytest.fixture
def graph(checkpoint: Path) -> DeployedDetector:
    return DeployedDetector(load_detector(checkpoint, "reference").model)


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def detections(checkpoint: Path, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """By the way that training and evaluation go, in pixels of the images."""
    model = load_detector(checkpoint).model
    batch = ImageBatch.from_images([to_pixels(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    found = unpack(pack(model(batch).predictions), [tuple(images.shape[-2:])] * len(images))
    return [(x.scores, x.labels, x.boxes) for x in found]


def test_an_onnx_file_detects_what_evaluation_does(onnx_file: Path, checkpoint: Path):
    """On a size that was neither traced nor checked."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    images = noise(2, 3, 150, 111)
    scores, labels, boxes, _ = session.run(None, {"images": images.numpy()})
    for i, expected in enumerate(detections(checkpoint, images)):
        torch.testing.assert_close(torch.from_numpy(scores[i]), expected[0], atol=1e-4, rtol=0)
        apart = np.diff(expected[0].numpy(), prepend=2, append=-1) < -1e-5  # equal scores have no order
        clear = torch.from_numpy(apart[:-1] & apart[1:])
        assert clear.sum() > 10
        assert torch.equal(torch.from_numpy(labels[i])[clear], expected[1][clear])
        torch.testing.assert_close(torch.from_numpy(boxes[i])[clear], expected[2][clear], atol=1e-2, rtol=0)


def test_an_onnx_file_has_standard_operators_and_dynamic_axes(onnx_file: Path):
    import onnx

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert "GridSample" not in {node.op_type for node in model.graph.node}
    axes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert axes == {
        "images": ["batch", 3, "height", "width"],
        "scores": ["batch", 40],
        "labels": ["batch", 40],
        "boxes": ["batch", 40, 4],
        "tokens": ["batch", 8],
    }


def test_an_onnx_file_says_what_it_is(onnx_file: Path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="an optional extra")
    session = onnxruntime.InferenceSession(onnx_file)
    description = json.loads(session.get_modelmeta().custom_metadata_map["litedetr"])
    assert description["categories"]["names"] == list(SHAPES.names)
    assert description["preprocessing"]["max_side"] == 1333
    assert description["preprocessing"]["smallest_side"] == 65
    assert description["model"] == json.loads(json.dumps(to_mapping(MODEL)))


@torch.no_grad()
def test_group_norm_in_onnx_is_as_exact_as_in_pytorch(tmp_path: Path):
    """On a map that is large enough for a plain sum to lose four digits."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="an optional extra")
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(4, 32)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    maps = 2 * torch.randn(2, 32, 214, 320).relu() - 1 + torch.randn(32, 1, 1)
    axes = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    program = torch.export.export(norm, (maps,), dynamic_shapes=(axes,))
    exported = torch.onnx.export(
        program, dynamo=True, input_names=["maps"], verbose=False, custom_translation_table=translations()
    )
    exported.save(tmp_path / "norm.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "norm.onnx")
    for given in (maps, maps[:, :, :50, :33].contiguous()):
        (found,) = session.run(None, {"maps": given.numpy()})
        exact = norm.double()(given.double())
        norm.float()
        torch.testing.assert_close(torch.from_numpy(found).double(), exact, atol=1e-5, rtol=0)


def test_what_only_training_needs_is_not_exported():
    torch.manual_seed(0)
    detector = build_detector(replace(MODEL, hybrid=HybridConfig(num_queries=6)), len(SHAPES))
    assert "denoising" in {name.split(".")[0] for name in detector.state_dict()}
    graph, images = DeployedDetector(detector), noise(2, 3, 100, 131)
    traced = trace(graph, TRACED)
    assert not [name for name in traced.state_dict if ".denoising." in name]
    for found, expected in zip(traced.module()(images), graph(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["auto", pytest.param("reference", marks=pytest.mark.slow)])
def test_a_torch_export_file_gives_the_same_numbers(checkpoint: Path, tmp_path: Path, backend: str, graph):
    config = settings(
        checkpoint, "torch_export", backend=backend, postprocess=False, output=str(tmp_path / "detector.pt2")
    )
    exported = export_checkpoint(config, say=lambda _: None)
    assert exported.signature[0] == "input images: (batch, 3, height, width) uint8"
    assert exported.signature[1] == "output class_logits: (batch, 8, 5) float32"
    assert [agreement.shape[0] for agreement in exported.agreements] == [1, 3, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["detector.pt2"]

    program = torch.export.load(exported.path)
    operators = {str(node.target) for node in program.graph.nodes}
    assert ("litedetr.attention_cpu.default" in operators) == (backend == "auto")
    images = noise(4, 3, 77, 200)
    with torch.no_grad():
        expected, _ = graph.predict(images)
        class_logits, boxes, _ = program.module()(images)
    torch.testing.assert_close(class_logits, expected.class_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes, expected.boxes, atol=1e-4, rtol=0)
    description = {"litedetr.json": ""}
    torch.export.load(exported.path, extra_files=description)
    assert json.loads(description["litedetr.json"])["outputs"] == ["class_logits", "boxes", "tokens"]


@pytest.mark.parametrize("kind", ["torch_export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_detector_with_efficientnet_lite_passes_its_check(cache: Path, tmp_path: Path, kind: str):
    """On batches of other sizes, odd ones among them."""
    config = replace(MODEL, backbone=BackboneConfig("efficientnet_lite0", frozen_stages=0))
    exported = export_checkpoint(settings(save_random(tmp_path / "best.pt", cache, config), kind), say=lambda _: None)
    assert len(exported.agreements) == len(CHECKED)
    assert max(agreement.worst for agreement in exported.agreements) < 1e-4
    if kind == "onnx":
        operators = [node.op_type for node in pytest.importorskip("onnx").load(exported.path).graph.node]
        assert operators.count("Clip") >= 32
        assert "BatchNormalization" not in operators


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_aoti_file_passes_its_check(checkpoint: Path, tmp_path: Path, backend: str):
    config = settings(checkpoint, "aoti", backend=backend, output=str(tmp_path / "detector.pt2"))
    exported = export_checkpoint(config, say=lambda _: None)
    assert max(agreement.worst for agreement in exported.agreements) < 1e-4
    description = torch._inductor.aoti_load_package(str(exported.path)).get_metadata()["litedetr"]
    assert json.loads(description)["attention_backend"] == backend


def test_the_check_accepts_near_tied_tokens_in_another_order(graph: DeployedDetector):
    """Two neighbours in rank change places: their slots' contents meet other boxes, which moves the detections."""
    images = noise(1, 3, 96, 131)

    def swapped(images: Tensor) -> tuple[Tensor, ...]:
        def swap(_, __, best):
            tokens = best[0].clone()
            tokens[:, [2, 3]] = tokens[:, [3, 2]]
            return tokens, None

        with graph.detector.query_selection.best.register_forward_hook(swap):
            return graph(images)

    with torch.no_grad():
        moved = max(float((a - b).abs().max()) for a, b in zip(swapped(images)[::2], graph(images)[::2], strict=True))
    assert moved > 1e-3
    agreement = compare(graph, swapped, images)
    assert agreement.swapped == 2
    assert max(agreement.differences.values()) < 1e-6
    assert 0 < agreement.selection < 1


def altered(graph: DeployedDetector, output: int, change) -> callable:
    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = list(graph(images))
        outputs[output] = change(outputs[output])
        return tuple(outputs)

    return run


@pytest.mark.parametrize(
    ("output", "change"),
    [
        (0, lambda scores: scores + 0.01),
        (0, lambda scores: scores.flip(1)),
        (0, lambda scores: scores * torch.nan),
        (1, lambda labels: (labels + 1) % 5),
        (2, lambda boxes: boxes + 1),
        (2, lambda boxes: boxes.roll(1, dims=2)),
        (3, lambda tokens: tokens[:, :1].expand(-1, 8)),
        (3, lambda tokens: tokens.flip(1)),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_the_check_finds_what_is_wrong(graph: DeployedDetector, output: int, change, number: int):
    images = noise(number, 3, 90, 120)
    assert compare(graph, graph, images).worst < 1e-6
    assert compare(graph, altered(graph, output, change), images).worst > 1e-3


def test_the_check_names_outputs_of_other_shapes(graph: DeployedDetector):
    with pytest.raises(ExportError, match=r"outputs: expected shapes and types .*\(1, 40\)"):
        compare(graph, altered(graph, 0, lambda scores: scores[:, 1:]), noise(1, 3, 90, 120))


def test_a_file_that_fails_keeps_another_name(
    checkpoint: Path, graph: DeployedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export_module, "trace", lambda *_: torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)))
    target = tmp_path / "detector.pt2"
    target.write_text("an older file")
    monkeypatch.setattr(TorchExport, "load", lambda *_: altered(graph, 0, lambda x: x + 0.5))
    with pytest.raises(ExportError, match=r"not written: on .* is 5\..e-01 from PyTorch, beyond tolerance=0.0001"):
        export_checkpoint(settings(checkpoint, "torch_export", output=str(target)), say=lambda _: None)
    assert target.read_text() == "an older file"
    assert (tmp_path / "unchecked-detector.pt2").exists()


def test_missing_packages_are_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_formats, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ExportError, match=r"^format=onnx needs onnxscript: pip install 'litedetr\[export\]'$"):
        export_checkpoint(settings(checkpoint, "onnx"))


def test_a_missing_compiler_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ExportError, match="^format=aoti needs a C.. compiler, found none of no-such-compiler"):
        export_checkpoint(settings(checkpoint, "aoti"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"backend": "auto"}, "backend: expected null or reference with format=onnx"),
        ({"check_sizes": ((1, *TRACED),)}, "check_sizes: expected sizes other than image_size"),
        ({"check_sizes": ((1, 64, 100),)}, "check_sizes: expected a height and width of at least 65"),
        ({"image_size": (60, 100)}, "image_size: expected a height and width of at least 65"),
        ({"output": "detector.pt2"}, "output: expected a file name that ends in .onnx"),
        ({"output": "nowhere/detector.onnx"}, "output: expected a file in a folder that exists"),
        ({"check_images": "nowhere"}, "check_images: expected validation, noise or a folder of images"),
        ({"opset": 17}, "opset: expected at least 18"),
    ],
)
def test_settings_that_cannot_work_are_named(checkpoint: Path, others: dict, message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        export_checkpoint(settings(checkpoint, "onnx", **others), say=lambda _: None)


def test_a_file_asks_for_no_smaller_images_than_it_takes():
    said = []
    usual = TransformConfig(train_sides=(), max_side=1333, eval_side=800, flip=0.5, crop=False)
    assert image_sides(usual, 65, said.append) == {"eval_side": 800, "max_side": 1333, "smallest_side": 65}
    native = image_sides(replace(usual, eval_side=None), 65, said.append)
    assert native == {"eval_side": None, "max_side": 1333, "smallest_side": 65}
    assert said == []
    small = image_sides(replace(usual, eval_side=64, max_side=64), 65, said.append)
    assert small == {"eval_side": 65, "max_side": 65, "smallest_side": 65}
    assert said == ["the file says eval_side: 65 instead of 64, as it takes no smaller images"]


def test_a_converted_checkpoint_is_checked_on_noise(checkpoint: Path):
    said, loaded = [], load_detector(checkpoint)
    assert images_to_check_on("validation", loaded, said.append) == "validation"
    assert said == []
    config = replace(loaded.config, data=DataConfig("coco", loaded.config.data.transforms, root=NO_ROOT))
    converted = replace(loaded, config=config)
    assert images_to_check_on("photos", converted, said.append) == "photos"
    assert images_to_check_on("validation", converted, said.append) == "noise"
    assert said == ["a converted checkpoint knows no images: checked on noise; check_images=<folder> takes some"]


def test_validation_images_that_have_moved_want_others(checkpoint: Path):
    loaded = load_detector(checkpoint)
    config = replace(loaded.config, data=DataConfig("coco", loaded.config.data.transforms, root="/moved"))
    message = r"^check_images: expected noise or a folder of images, .*data\.root: expected an existing folder"
    with pytest.raises(ConfigError, match=message):
        check_batches("validation", replace(loaded, config=config), [(1, 65, 65)])


@pytest.mark.parametrize(("queries", "levels", "side"), [(8, 2, 65), (900, 4, 201), (300, 4, 113)])
def test_the_smallest_side_has_a_token_for_every_query(queries: int, levels: int, side: int):
    config = replace(
        MODEL,
        neck=replace(MODEL.neck, num_levels=levels),
        query_selection=replace(MODEL.query_selection, num_queries=queries),
    )
    assert smallest_side(config) == side
    tokens = [sum(h * w for h, w in level_shapes(levels, (s, s))) for s in (side - 1, side)]
    assert tokens[0] < queries <= tokens[1] or side == 65


def test_an_older_torch_is_named(checkpoint, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    with pytest.raises(ExportError, match=r"^export needs torch 2\.13 or later, this is 2\.11\.0\+cu130"):
        export_checkpoint(settings(checkpoint, "torch_export"))
    assert file_formats.torch_can_trace() is False
