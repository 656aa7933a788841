"""A new augmentation: one function and one file of configuration."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from augmentation_helpers import random_source

from litedetr.cli.compose import compose
from litedetr.data import TransformConfig
from litedetr.data.augmentations import AUGMENTATIONS, Source, augment, augmentation, vertical_flip
from litedetr.data.transforms import LabelledImage
from litedetr.engine.run_config import RunConfig
from litedetr.settings import ConfigError

NATIVE = TransformConfig((), 1333, None, 0.0, False)


def gradient_image() -> LabelledImage:
    """Rows of 0, 1, 2, ...; a box on the two upper rows."""
    image = torch.arange(6, dtype=torch.uint8)[None, :, None].expand(3, 6, 8).contiguous()
    return LabelledImage(image, torch.tensor([[1.0, 0.0, 4.0, 2.0]]), torch.tensor([0]))


def test_vertical_flip_mirrors_pixels_and_boxes():
    flipped = vertical_flip(gradient_image(), random_source(0))
    assert flipped.image[0, :, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert flipped.boxes.tolist() == [[1, 4, 4, 6]]
    again = vertical_flip(flipped, random_source(0))
    assert torch.equal(again.image, gradient_image().image)
    assert torch.equal(again.boxes, gradient_image().boxes)


@pytest.fixture
def brighter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with one more augmentation."""
    monkeypatch.setitem(AUGMENTATIONS, "brighter", None)  # and without it afterwards
    del AUGMENTATIONS["brighter"]

    @augmentation
    def brighter(item: LabelledImage, source: Source) -> LabelledImage:
        return replace(item, image=item.image + int(source.rng.integers(10, 20)))


def test_an_augmentation_is_used_as_often_as_it_is_configured(brighter):
    settings = compose("train", ["+data.transforms.augmentations.brighter=0.3"])
    config = RunConfig.from_settings(settings).data.transforms
    assert config.augmentations == {"brighter": 0.3}
    config = replace(NATIVE, augmentations=config.augmentations)
    added = [
        int((augment(gradient_image(), config, random_source(seed)).image - gradient_image().image)[0, 0, 0])
        for seed in range(400)
    ]
    found = Counter(added)
    assert 90 < 400 - found[0] < 150
    assert found.keys() - {0} == set(range(10, 20))
    once_more = augment(gradient_image(), config, random_source(7)).image
    assert torch.equal(once_more, augment(gradient_image(), config, random_source(7)).image)


def test_augmentations_that_are_not_configured_draw_nothing(brighter):
    source, untouched = random_source(0), np.random.default_rng(0)
    augment(gradient_image(), NATIVE, source)
    untouched.random()  # of the flip
    assert source.rng.random() == untouched.random()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: replace(item, image=item.image.float() / 255), r"an image .*, got torch.float32 \(3, 6, 8\)"),
        (lambda item: replace(item, image=item.image[:1]), r"an image .*, got torch.uint8 \(1, 6, 8\)"),
        (lambda item: replace(item, boxes=item.boxes[:0]), r"boxes .*, got boxes \(0, 4\) and labels \(1,\)"),
    ],
    ids=["floats", "one channel", "labels without boxes"],
)
def test_an_augmentation_with_a_wrong_result_is_named(monkeypatch, change, message):
    monkeypatch.setitem(AUGMENTATIONS, "wrong", lambda item, source: change(item))
    config = replace(NATIVE, augmentations={"wrong": 1.0})
    with pytest.raises(ValueError, match=f"^augmentation wrong: expected it to return {message}$"):
        augment(gradient_image(), config, random_source(0))


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="augmentation 'vertical_flip': expected a new name"):
        augmentation(vertical_flip)


def test_an_unknown_augmentation_is_named_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"^data.transforms.augmentations.mosaik: expected one of '.*, got 'mosaik'$"):
        TransformConfig(augmentations={"mosaik": 1.0})
    with pytest.raises(ConfigError, match=r"^data.transforms.augmentations.vertical_flip: expected at most 1, got 2"):
        TransformConfig(augmentations={"vertical_flip": 2})
