"""Colours, against a formula in floating point."""

import colorsys
import math

import numpy as np
import pytest
import torch
from augmentation_helpers import noise, random_source

from litedetr.data.augmentations import photometric_distortion
from litedetr.data.augmentations.colour import colour_matrix, mean_luma, transform_colours


def test_a_matrix_of_integers_gives_rounded_products_cut_to_bytes():
    image = noise((40, 30)).image
    matrix = np.array([[1.2, -0.3, 0.1], [0.05, 0.9, -0.2], [-0.4, 0.3, 1.4]])
    exact = np.einsum("ij,jhw->ihw", matrix, image.numpy().astype(float)) + 7.3
    assert abs(transform_colours(image, matrix, 7.3).numpy() - exact.clip(0, 255)).max() <= 1
    assert (exact < 0).any()
    assert (exact > 255).any()
    assert torch.equal(transform_colours(image, np.eye(3), 0.0), image)


@pytest.mark.parametrize(("saturation", "hue"), [(1.0, 18.0), (0.5, 0.0), (1.5, -10.0), (0.0, 0.0)])
@pytest.mark.parametrize("rgb", [(200.0, 60.0, 30.0), (20.0, 90.0, 210.0)])
def test_hue_is_turned_and_saturation_multiplied_at_the_same_luma(saturation: float, hue: float, rgb):
    y, i, q = colorsys.rgb_to_yiq(*rgb)
    new_y, new_i, new_q = colorsys.rgb_to_yiq(*(colour_matrix(saturation, hue) @ rgb))
    assert new_y == pytest.approx(y, abs=1.5)
    assert math.hypot(new_i, new_q) == pytest.approx(saturation * math.hypot(i, q), rel=0.02, abs=0.5)
    if saturation:
        turned = math.degrees(math.atan2(new_q, new_i) - math.atan2(q, i))
        assert (turned + 180) % 360 - 180 == pytest.approx(hue, abs=1)


def test_grey_stays_grey():
    for saturation, hue in ((0.5, -18), (1.5, 18)):
        assert colour_matrix(saturation, hue) @ [100, 100, 100] == pytest.approx([100, 100, 100], abs=0.1)


def test_mean_luma_is_that_of_all_pixels():
    image = noise((37, 23)).image
    for pixels in (image, image.flip(-1), image.contiguous()):  # in whatever order they lie in memory
        assert mean_luma(pixels) == pytest.approx(float(np.array([0.299, 0.587, 0.114]) @ image.numpy().mean((1, 2))))


def test_each_of_the_four_is_drawn_half_of_the_time_and_keeps_to_its_range():
    """A dark and a light grey tell brightness and contrast, a red pixel the rest."""
    image = torch.tensor([[90, 90, 90], [150, 150, 150], [140, 110, 110]], dtype=torch.uint8).T[:, None]
    item = noise((3, 1), [(0, 0, 1, 1)])
    item = type(item)(image, item.boxes, item.labels)
    contrasts, offsets, untouched = [], [], 0
    for seed in range(600):
        changed = photometric_distortion(item, random_source(seed))
        assert torch.equal(changed.boxes, item.boxes)
        untouched += torch.equal(changed.image, image)
        dark, light = changed.image[0, 0, :2].tolist()
        if dark > 0 and light < 255:
            contrasts.append((light - dark) / 60)
            offsets.append((light + dark) / 2 - 120)
    assert 600 / 16 - 20 < untouched < 600 / 16 + 20
    assert 0.48 < min(contrasts) < 0.56
    assert 1.44 < max(contrasts) < 1.52
    assert 0.44 < np.mean([contrast == 1 for contrast in contrasts]) < 0.62
    assert min(offsets) > -50  # 32 grey levels times a contrast of 1.5, give or take the mean of 118.5
    assert max(offsets) < 50
