"""Images as bytes until the detector normalises them, and their resizing beside Pillow's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import MODEL
from PIL import Image

from litedetr import pixels
from litedetr.data import collate, to_pixels
from litedetr.data.draw_shapes import draw_scene
from litedetr.data.epoch_sampler import Sample
from litedetr.data.read_images import resized
from litedetr.models import build_detector
from litedetr.pixels import IMAGENET_MEAN, IMAGENET_STD
from litedetr.structures import ImageBatch, Target

SIZES = [(20, 31), (33, 18), (33, 31)]
PHOTOS = [(480, 640), (375, 500), (640, 427)]  # of COCO


def random_bytes(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def by_hand(image: torch.Tensor) -> torch.Tensor:
    planes = zip(image, IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([plane.float().div(255).sub(mean).div(std) for plane, mean, std in planes])


def test_bytes_are_normalised_bit_for_bit_and_zero_on_padding():
    images = random_bytes(*SIZES)
    batch = ImageBatch.from_images(images)
    assert batch.pixels.dtype == torch.uint8
    found = batch.normalised()
    assert (found.pixels.shape, found.padded) == ((3, 3, 33, 31), True)
    for image, floats, (height, width) in zip(images, found.pixels, SIZES, strict=True):
        assert torch.equal(floats[:, :height, :width], by_hand(image))
        rest = floats.clone()
        rest[:, :height, :width] = 0
        assert not rest.any()


def test_an_unpadded_batch_wants_no_sizes(monkeypatch: pytest.MonkeyPatch):
    """Not even their values, which would be waited for."""
    images = random_bytes((20, 30), (20, 30))
    batch = replace(ImageBatch.from_images(images), sizes=None)
    assert torch.equal(batch.normalised().pixels, torch.stack([by_hand(image) for image in images]))


def test_the_formula_of_other_devices_is_the_same_to_rounding():
    rows = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).view(1, 1, -1)
    torch.testing.assert_close(pixels._at_once(rows), pixels._by_image(rows), rtol=0, atol=1e-6)


def test_the_mask_of_other_devices_is_that_of_the_sizes():
    sizes = torch.tensor(SIZES)
    mask = pixels.inside(sizes, 33, 31)
    assert [int(image.sum()) for image in mask] == [height * width for height, width in SIZES]
    assert all(image[0, :height, :width].all() for image, (height, width) in zip(mask, SIZES, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_normalises_alike():
    batch = ImageBatch.from_images(random_bytes(*SIZES))
    found = batch.pin_memory().to("cuda", non_blocking=True).normalised()
    torch.testing.assert_close(found.pixels.cpu(), batch.normalised().pixels, rtol=0, atol=1e-6)


def test_channels_lie_last_and_floats_stay():
    batch = ImageBatch.from_images(random_bytes(*SIZES))
    for found in (batch, batch.normalised()):
        assert found.pixels.is_contiguous(memory_format=torch.channels_last)
    floats = batch.normalised()
    assert floats.normalised() is floats
    planar = replace(batch, pixels=batch.pixels.contiguous())
    assert torch.equal(planar.normalised().pixels, floats.pixels)


def test_what_is_neither_bytes_nor_floats_is_named():
    image = random_bytes((4, 4))[0]
    with pytest.raises(TypeError, match=r"pixels: expected uint8 RGB or normalised floats, got torch\.int64"):
        ImageBatch.from_images([image.long()])
    with pytest.raises(TypeError, match=r"images: expected one dtype, got torch\.float32, torch\.uint8"):
        ImageBatch.from_images([image, image.float()])


def test_the_detector_takes_bytes_and_normalised_floats():
    torch.manual_seed(0)
    model = build_detector(MODEL, 5).eval()
    batch = ImageBatch.from_images(random_bytes((48, 64), (40, 56)))
    with torch.no_grad():
        expected, found = model(batch.normalised()).predictions, model(batch).predictions
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.class_logits, expected.class_logits)


@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_lies_in_shared_memory_where_it_is_asked_to(shared: bool):
    target = Target(torch.zeros(0).long(), torch.zeros(0, 4), 1, (4, 4))
    images, _ = collate([Sample(image, target) for image in random_bytes(*SIZES)], shared)
    assert images.pixels.is_shared() == shared
    assert torch.equal(images.pixels, ImageBatch.from_images(random_bytes(*SIZES)).pixels)


def like_a_photo(height: int, width: int, seed: int) -> Image.Image:
    """Edges, textures and noise."""
    scene = draw_scene(np.random.default_rng(seed), (min(height, width),) * 2, 8)
    return scene.image.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("side", [224, 352, 400, 600, 800])
def test_resizing_is_pillows_within_one_grey_level(side: int):
    """The maximum of these images. In photographs fewer than one value in 10^7 is two levels off."""
    differences = []
    for seed, (height, width) in enumerate(PHOTOS):
        image = like_a_photo(height, width, seed)
        size = (width * side // min(height, width), height * side // min(height, width))
        expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)
        differences.append(np.abs(resized(to_pixels(image), size).permute(1, 2, 0).numpy() - expected).ravel())
    found = np.concatenate(differences)
    assert found.max() <= 1
    assert np.mean(found > 0) < 0.02


@pytest.mark.parametrize("size", [(200, 160), (320, 250), (512, 400), (800, 625)])
def test_of_noise_too_all_but_a_thousandth_is_within_one_grey_level(size: tuple[int, int]):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (500, 640, 3), dtype=np.uint8))
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)
    found = np.abs(resized(to_pixels(image), size).permute(1, 2, 0).numpy() - expected)
    assert np.quantile(found, 0.999) <= 1
    assert found.max() <= 2


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1), (7, 3)])
@pytest.mark.parametrize("old", [(1, 40), (40, 1), (1, 1), (9, 13)])
def test_strips_are_resized_as_pillow_does(old: tuple[int, int], size: tuple[int, int]):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8))
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resized(to_pixels(image), size).permute(1, 2, 0).numpy() - expected).max() <= 1


def test_a_window_is_resized_as_its_copy():
    image = random_bytes((60, 70))[0]
    window = image[:, 7:50, 3:41]
    found = resized(window, (90, 80))
    assert torch.equal(found, resized(window.clone(), (90, 80)))
    assert found.permute(1, 2, 0).is_contiguous()  # as the batch that it is written to
    assert resized(window, (38, 43)) is window


def test_an_image_as_decoded_is_its_bytes(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(Image.fromarray(values)).permute(1, 2, 0).numpy(), values)
