"""Fixtures of the model tests."""

import pytest
from model_helpers import random_images

from litedetr.structures import ImageBatch


@pytest.fixture
def batch() -> ImageBatch:
    return ImageBatch.from_images(random_images((96, 128), (96, 128)))
