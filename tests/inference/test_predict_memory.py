"""How much of many images is in memory at a time, and that they come back in their order."""

import math
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_predictor import picture, predictor_at

from litedetr.data import read_image
from litedetr.inference import image_inputs
from litedetr.inference.predictor import LOOK_AHEAD, Predictor, batches_by_key


@pytest.fixture
def predictor(cache: Path) -> Predictor:
    return predictor_at(cache)


class Alive:
    """Counts how many decoded images there are at a time, `most` at most, by standing in for `read_image`."""

    def __init__(self) -> None:
        self.images, self.most = [], 0

    def __call__(self, source: Path) -> Image.Image:
        image = read_image(source)
        self.add(image)
        return image

    def add(self, image: Image.Image) -> None:
        self.images.append(weakref.ref(image))
        self.most = max(self.most, sum(reference() is not None for reference in self.images))


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Alive:
    counter = Alive()
    monkeypatch.setattr(image_inputs, "read_image", counter)
    return counter


SIZES = [(64, 48), (48, 64), (64, 48), (32, 40), (64, 48), (48, 64), (64, 48), (64, 48), (64, 48), (48, 64)] * 3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_files_are_decoded_batch_by_batch(predictor: Predictor, tmp_path: Path, alive: Alive, batch_size: int):
    paths = [tmp_path / f"{seed}.png" for seed in range(len(SIZES))]
    for seed, (path, size) in enumerate(zip(paths, SIZES, strict=True)):
        picture(*size, seed).save(path)
    contents = [path.read_bytes() for path in paths]
    files = [path.open("rb") for path in paths]
    results = [predictor.predict(images, 0, 3, batch_size) for images in (paths, contents, files, iter(paths))]
    for file in files:
        file.close()
    assert len(alive.images) == 4 * len(paths)  # each once
    assert alive.most <= batch_size + 1
    one_by_one = [predictor.predict(path, 0, 3)[0] for path in paths]
    for result in results:  # in their order
        for found, expected in zip(result, one_by_one, strict=True):
            assert torch.allclose(found.scores, expected.scores, atol=1e-5)
            assert torch.allclose(found.boxes, expected.boxes, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_generator_is_taken_as_it_comes(predictor: Predictor, batch_size: int):
    counter = Alive()

    def frames(sizes: list[tuple[int, int]]) -> Iterator[Image.Image]:
        for seed, size in enumerate(sizes):
            image = picture(*size, seed)
            counter.add(image)
            yield image

    assert len(predictor.predict(frames([(64, 48)] * 30), batch_size=batch_size)) == 30
    assert counter.most <= 2 * batch_size + 1
    assert len(predictor.predict(frames([(64 + seed, 48) for seed in range(30)]), batch_size=batch_size)) == 30
    assert counter.most <= (LOOK_AHEAD + 1) * batch_size + 1


def test_a_sequence_that_makes_its_images_is_taken_as_it_comes(predictor: Predictor):
    counter = Alive()

    class Frames(Sequence):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> Image.Image:
            image = picture(64, 48, range(30)[index])
            counter.add(image)
            return image

    assert len(predictor.predict(Frames(), batch_size=2)) == 30
    assert counter.most <= 5


def test_items_of_one_key_go_together():
    def lists(items: str, number: int, most_waiting: float = math.inf) -> list[str]:
        return ["".join(group) for group in batches_by_key(iter(items), str.lower, number, most_waiting)]

    assert lists("aBAcabC", 3) == ["aAa", "Bb", "cC"]
    assert lists("aBAcabC", 3, 3) == ["aA", "B", "c", "a", "b", "C"]
    assert lists("abcaba", 2, 3) == ["a", "b", "c", "aa", "b"]
    assert lists("", 3) == []
