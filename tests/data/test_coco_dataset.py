import contextlib
import io
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader

from litedetr.data import (
    Categories,
    CocoDetection,
    DataError,
    EpochSampler,
    SampleKey,
    TransformConfig,
    collate,
)
from litedetr.data.augmentations import AUGMENTATIONS
from litedetr.data.dataset_layout import SplitFiles
from litedetr.structures import ImageBatch

Content = dict[str, Any]
Write = Callable[..., SplitFiles]
OneImage = Callable[..., CocoDetection]
BUSY = TransformConfig(
    (20, 28, 36), 60, None, 0.5, crop=True, crop_probability=0.7, crop_resize_sides=(30, 40), crop_range=(12, 30)
)


ALL = replace(BUSY, augmentations=dict.fromkeys(AUGMENTATIONS, 0.6))


def textured(write: Write, content: Content, seed: int = 3, transforms: TransformConfig = BUSY) -> CocoDetection:
    """A busily augmented training split whose images differ at every pixel."""
    files = write(content)
    rng = np.random.default_rng(0)
    for image in content["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files.images / image["file_name"])
    return CocoDetection(files, transforms, training=True, seed=seed)


def test_targets_are_relative_boxes_and_contiguous_labels(content: Content, write: Write, native: Any) -> None:
    dataset = CocoDetection(write(content), native, training=False)
    sample = dataset[1]
    assert dataset.categories == Categories(("cat", "dog"), (5, 90))
    assert sample.image.shape == (3, 50, 30)
    assert sample.target.image_id == 4
    assert sample.target.original_size == (50, 30)
    assert sample.target.labels.tolist() == [0, 1]
    expected = torch.tensor([[9 / 30, 20 / 50, 12 / 30, 20 / 50], [4 / 30, 4 / 50, 6 / 30, 6 / 50]])
    torch.testing.assert_close(sample.target.boxes, expected)


def test_images_without_objects_have_empty_targets(content: Content, write: Write) -> None:
    target = textured(write, content)[SampleKey(5, 2)].target
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.labels.dtype == torch.int64


def test_images_are_bytes_until_the_detector_normalises_them(content: Content, write: Write, native: Any) -> None:
    image = CocoDetection(write(content), native, training=False)[0].image
    assert image.dtype == torch.uint8
    assert image[:, 0, 0].tolist() == [200, 30, 60]
    red = (200 / 255 - 0.485) / 0.229
    torch.testing.assert_close(ImageBatch.from_images([image]).normalised().pixels[0, 0], torch.full((20, 40), red))


def test_classes_restrict_targets_and_ground_truth(content: Content, write: Write, native: Any) -> None:
    dataset = CocoDetection(write(content), native, training=False, classes=("dog",))
    assert dataset.categories == Categories(("dog",), (90,))
    assert [len(dataset[i].target) for i in range(3)] == [1, 1, 0]
    assert {a["category_id"] for a in dataset.coco_ground_truth().anns.values()} == {90}


def test_labels_are_those_of_the_training_set(content: Content, write: Write, native: Any) -> None:
    trained = Categories(("bird", "cat", "dog"), (1, 5, 90))
    dataset = CocoDetection(write(content), native, training=False, categories=trained)
    assert dataset[1].target.labels.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"instances_train\.json.*id 5 is 'cat' there and 'bird' here"):
        CocoDetection(write(content), native, training=False, categories=Categories(("bird", "dog"), (5, 90)))


def test_missing_images_are_known_at_construction(content: Content, write: Write, native: Any) -> None:
    files = write(content)
    (files.images / "c.png").unlink()
    with pytest.raises(DataError, match=r"c\.png"):
        CocoDetection(files, native, training=True)


def test_ground_truth_scores_perfect_detections_as_perfect(
    content: Content, write: Write, native: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An annotation with the id 0, a crowd, and entries without area or iscrowd included."""
    del content["annotations"][1]["area"], content["annotations"][1]["iscrowd"]
    truth = CocoDetection(write(content), native, training=False).coco_ground_truth()
    assert capsys.readouterr().out == ""
    assert sorted(a["iscrowd"] for a in truth.anns.values()) == [0, 0, 0, 1]
    assert [a["area"] for a in truth.imgToAnns[9]] == [200]
    detections = [
        {name: a[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in truth.anns.values()
        if not a["iscrowd"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def halves(path: Path, orientation: int | None = None) -> None:
    """40x20, left half red, right half blue, stored with an EXIF orientation."""
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)


def test_exif_rotation_is_applied_where_the_annotations_are_upright(one_image: OneImage) -> None:
    image = one_image(lambda path: halves(path, 6), (20, 40)).load_image(17)
    assert image.size == (20, 40)
    assert image.getpixel((10, 5)) == (255, 0, 0)
    assert image.getpixel((10, 35)) == (0, 0, 255)


def test_exif_rotation_is_left_where_the_annotations_are_of_raw_pixels(one_image: OneImage) -> None:
    dataset = one_image(lambda path: halves(path, 6), (40, 20))
    assert dataset.load_image(17).getpixel((35, 10)) == (0, 0, 255)
    assert dataset[0].image.shape == (3, 20, 40)


def test_exif_half_turn_is_applied(one_image: OneImage) -> None:
    assert one_image(lambda path: halves(path, 3), (40, 20)).load_image(17).getpixel((5, 10)) == (0, 0, 255)


def test_a_size_that_fits_no_rotation_is_named(one_image: OneImage) -> None:
    dataset = one_image(lambda path: halves(path, 6), (41, 20))
    with pytest.raises(
        DataError, match=r"image id 17 .*one\.png: the annotations say 41x20 pixels, the file has 40x20"
    ):
        dataset[0]


SAME_GREY = {
    "1": (Image.new("1", (8, 6), 1), (255, 255, 255)),
    "L": (Image.new("L", (8, 6), 90), (90, 90, 90)),
    "LA": (Image.new("LA", (8, 6), (90, 120)), (90, 90, 90)),
    "RGBA": (Image.new("RGBA", (8, 6), (10, 90, 200, 128)), (10, 90, 200)),
    "P": (Image.new("RGB", (8, 6), (10, 90, 200)).quantize(4), (10, 90, 200)),
    "I;16": (Image.fromarray(np.full((6, 8), 90 * 256 + 77, dtype=np.uint16)), (90, 90, 90)),
    "CMYK": (Image.new("CMYK", (8, 6), (255, 0, 0, 0)), (0, 255, 255)),
}


@pytest.mark.parametrize("mode", SAME_GREY)
def test_every_mode_becomes_rgb(mode: str, one_image: OneImage) -> None:
    image, colour = SAME_GREY[mode]
    assert image.mode == mode
    name = "one.tif" if mode == "CMYK" else "one.png"
    loaded = one_image(image.save, (8, 6), name).load_image(17)
    assert (loaded.mode, loaded.getpixel((3, 3))) == ("RGB", colour)


def test_a_palette_with_transparency_loads_without_a_warning(one_image: OneImage, recwarn: Any) -> None:
    image = Image.new("RGB", (8, 6), (10, 90, 200)).quantize(4)
    dataset = one_image(lambda path: image.save(path, transparency=b"\x80\xff"), (8, 6))
    assert dataset.load_image(17).getpixel((3, 3)) == (10, 90, 200)
    assert not recwarn.list


def truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize("save", [truncated, lambda path: path.write_text("no image"), lambda path: path.touch()])
def test_a_file_that_does_not_decode_is_named(save: Callable[[Path], None], one_image: OneImage) -> None:
    with pytest.raises(DataError, match=r"image id 17 of .*one\.json: .*one\.jpg: cannot be read as an image"):
        one_image(save, (64, 64), "one.jpg")[0]


def test_unknown_image_id_is_an_error(content: Content, write: Write, native: Any) -> None:
    dataset = CocoDetection(write(content), native, training=False)
    assert dataset.image_path(4).name == "b.png"
    with pytest.raises(KeyError, match="no image with the id 1"):
        dataset.image_path(1)


@pytest.mark.parametrize("transforms", [BUSY, ALL], ids=["usual", "all augmentations"])
def test_a_key_gives_the_same_sample_in_another_process(
    transforms: TransformConfig, content: Content, write: Write
) -> None:
    dataset = textured(write, content, transforms=transforms)
    here = dataset[SampleKey(3, 1)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(dataset.__getitem__, SampleKey(3, 1)).result(timeout=60)
    torch.testing.assert_close(there.image, here.image, rtol=0, atol=0)
    torch.testing.assert_close(there.target.boxes, here.target.boxes, rtol=0, atol=0)


def test_epoch_index_and_seed_each_change_the_augmentation(content: Content, write: Write) -> None:
    def shapes(seed: int, index: int) -> list[tuple[int, ...]]:
        dataset = textured(write, content, seed)
        return [tuple(dataset[SampleKey(epoch, index)].image.shape) for epoch in range(12)]

    content["images"][2].update(width=40, height=20)  # as large as image 0
    assert len(set(shapes(3, 0))) > 4
    assert shapes(3, 0) == shapes(3, 0)
    assert shapes(3, 0) != shapes(4, 0)
    assert shapes(3, 0) != shapes(3, 2)


@pytest.mark.parametrize("transforms", [BUSY, ALL], ids=["usual", "all augmentations"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_the_workers(
    num_workers: int, transforms: TransformConfig, content: Content, write: Write
) -> None:
    dataset = textured(write, content, transforms=transforms)
    sampler = EpochSampler(len(dataset), 1, seed=1)
    sampler.set_position(2)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
    expected = [collate([dataset[key] for key in keys]) for keys in sampler]
    for (images, targets), (expected_images, expected_targets) in zip(loader, expected, strict=True):
        assert torch.equal(images.pixels, expected_images.pixels)
        assert targets.items[0].image_id == expected_targets.items[0].image_id


@pytest.mark.parametrize("name", [*AUGMENTATIONS])
def test_seed_epoch_and_index_decide_an_augmentation(name: str, content: Content, write: Write) -> None:
    """Of images of one size and without flips, whose plain forms do not change."""
    content["images"] = [image | {"width": 60, "height": 50} for image in content["images"]]
    transforms = TransformConfig((), 60, None, 0.0, False, augmentations={name: 1.0})
    dataset = textured(write, content, transforms=transforms)
    images = [dataset[SampleKey(epoch, 1)].image for epoch in range(6)]
    assert all(torch.equal(dataset[SampleKey(epoch, 1)].image, image) for epoch, image in enumerate(images))
    if name == "vertical_flip":  # draws nothing
        return
    assert len({image.numpy().tobytes() for image in images}) > 3
    other = textured(write, content, seed=4, transforms=transforms)
    assert not all(torch.equal(other[SampleKey(epoch, 1)].image, image) for epoch, image in enumerate(images))


def test_the_closing_phase_has_no_augmentations_but_the_same_flips_and_crops(content: Content, write: Write) -> None:
    augmented, plain = textured(write, content, transforms=ALL), textured(write, content)
    closing = augmented.without_augmentations_from(3)
    for index in range(3):
        for epoch in range(6):
            key = SampleKey(epoch, index)
            expected = (augmented if epoch < 3 else plain)[key]
            assert torch.equal(closing[key].image, expected.image)
            assert torch.equal(closing[key].target.boxes, expected.target.boxes)
    keys = [SampleKey(epoch, index) for epoch in range(3) for index in range(3)]
    assert not all(torch.equal(augmented[key].image, plain[key].image) for key in keys)


def test_other_images_have_only_the_chosen_classes(content: Content, write: Write) -> None:
    """Cats fill the second image; none comes in by a mosaic or by mixup."""
    transforms = TransformConfig((), 60, None, 0.5, False, augmentations={"mosaic": 1.0, "mixup": 1.0})
    dataset = CocoDetection(write(content), transforms, training=True, classes=("dog",))
    targets = [dataset[SampleKey(epoch, index)].target for epoch in range(10) for index in range(3)]
    assert sum(map(len, targets)) > 30
    assert {label for target in targets for label in target.labels.tolist()} == {0}


def test_an_unreadable_other_image_is_named(content: Content, write: Write) -> None:
    mixed = TransformConfig((), 60, None, 0.0, False, augmentations={"mixup": 1.0})
    dataset = textured(write, content, transforms=mixed)
    path = dataset.image_path(7)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"image id 7 of .*c\.png: cannot be read"):
        _ = [dataset[SampleKey(epoch, 0)] for epoch in range(20)]
