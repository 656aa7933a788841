import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litedetr.data import Categories, DataConfig, ShapesConfig, TransformConfig, build_datasets
from litedetr.data import shapes_dataset as shapes_module
from litedetr.data.draw_shapes import SHAPES, Outline, _Placed, draw_scene
from litedetr.data.shapes_dataset import shapes_root
from litedetr.settings import ConfigError


def tiny(cache: Path, **changes: int) -> ShapesConfig:
    return ShapesConfig(cache=str(cache), **{"num_train": 3, "num_val": 2, "max_side": 192} | changes)


def read(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.5])
@pytest.mark.parametrize("size", [12.0, 57.3])
def test_box_is_tight_around_the_drawn_shape(shape: str, angle: float, size: float) -> None:
    outline = Outline.of(shape, size, angle)
    assert max(outline.extent) == pytest.approx(size)
    centre = (50.3, 44.8)
    rows, columns = np.nonzero(np.asarray(outline.mask(centre, (100, 90))) > 25)
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    width, height = outline.extent
    box = (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)
    assert drawn == pytest.approx(box, abs=1.2)


def test_areas_are_those_of_the_shapes() -> None:
    """Share of the tight box that is filled, at angle 0; a ring has a hole, a star is thin."""
    expected = {"circle": math.pi / 4, "ring": math.pi / 4 * (1 - 0.55**2), "square": 1.0, "triangle": 0.5}
    for shape, share in expected.items():
        outline = Outline.of(shape, 60, 0)
        filled = np.asarray(outline.mask((50, 50), (100, 100)), dtype=float).sum() / 255
        assert filled / np.prod(outline.extent) == pytest.approx(share, rel=0.03)


def test_a_shape_is_cut_off_at_the_edge() -> None:
    mask = np.asarray(Outline.of("square", 40, math.pi / 4).mask((0, 30), (50, 60)))
    assert (mask[:, :19] > 0).any()
    assert not mask[:, 22:].any()


def test_scenes_span_sizes_classes_and_counts() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), (128, 192), 8) for seed in range(150)]
    sizes = {side for scene in scenes for side in scene.image.size}
    assert min(sizes) < 136
    assert max(sizes) > 184
    counts = [len(scene.shapes) for scene in scenes]
    assert 0 in counts
    assert max(counts) > 6
    for shape in SHAPES:
        areas = np.concatenate(
            [(s.boxes[:, 2:] - s.boxes[:, :2]).prod(axis=1)[np.array(s.shapes) == shape] for s in scenes if s.shapes]
        )
        small, large = (areas < 32**2).mean(), (areas > 96**2).mean()
        assert small > 0.25
        assert large > 0.03
        assert small + large < 0.8
    for scene in scenes:
        width, height = scene.image.size
        assert (scene.boxes >= 0).all()
        assert (scene.boxes <= [width, height, width, height]).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] > 5).all()


def test_no_shape_is_hidden_by_more_than_half() -> None:
    """Two squares over another, each hiding 40 % of it: the second is rejected; so is one that hides 60 % at once."""

    def cover(start: int, end: int) -> np.ndarray:
        coverage = np.zeros((20, 20), dtype=np.float32)
        coverage[:, start:end] = 1
        return coverage

    placed = _Placed(Image.new("RGB", (20, 20)))
    placed._cover(cover(0, 20), 400.0)
    assert not placed._leaves_enough(cover(0, 12))
    assert placed._leaves_enough(cover(0, 8))
    placed._cover(cover(0, 8), 160.0)
    assert placed._leaves_enough(cover(18, 20))
    assert not placed._leaves_enough(cover(12, 20))


def test_read_like_any_coco_set(tmp_path: Path) -> None:
    transforms = TransformConfig((), 1333, None, 0.5, False)
    datasets = build_datasets(DataConfig("shapes", transforms, shapes=tiny(tmp_path)), seed=0)
    assert datasets.train.categories == Categories(SHAPES, (3, 7, 12, 20, 41))
    assert (len(datasets.train), len(datasets.val)) == (3, 2)
    truth = datasets.train.coco_ground_truth()
    assert sum(len(datasets.train[i].target) for i in range(3)) == len(truth.anns) > 0
    ringless = build_datasets(DataConfig("shapes", transforms, classes=("ring",), shapes=tiny(tmp_path)), seed=0)
    assert ringless.train.categories == Categories(("ring",), (7,))


def test_the_same_settings_draw_the_same_set_once(tmp_path: Path) -> None:
    root = shapes_root(tiny(tmp_path / "a"))
    assert read(root) == read(shapes_root(tiny(tmp_path / "b")))
    marker = root / "marker"
    marker.touch()
    assert shapes_root(tiny(tmp_path / "a")) == root
    assert marker.exists()


def test_other_settings_draw_another_set(tmp_path: Path) -> None:
    root, other, larger = (shapes_root(tiny(tmp_path, **c)) for c in ({}, {"seed": 1}, {"num_train": 4}))
    first = "train/000001.jpg"
    assert len({root, other, larger}) == 3
    assert (root / first).read_bytes() != (other / first).read_bytes()
    assert (root / first).read_bytes() == (larger / first).read_bytes()
    assert (root / first).read_bytes() != (root / "val/000001.jpg").read_bytes()


def test_those_who_draw_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All wait for each other before publishing, so every one but the first finds the set there already."""
    barrier, publish = threading.Barrier(3), shapes_module._publish
    monkeypatch.setattr(shapes_module, "_publish", lambda *paths: (barrier.wait(30), publish(*paths)))
    roots: list[Path] = []
    threads = [threading.Thread(target=lambda: roots.append(shapes_root(tiny(tmp_path)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(roots) == 3
    assert len(set(roots)) == 1
    assert list(tmp_path.iterdir()) == [roots[0]]
    assert len(json.loads((roots[0] / "annotations/instances_val.json").read_text())["images"]) == 2


def test_a_finished_set_appears_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very folder that was drawn into takes the final name: a copy could be seen half done."""
    drawn: list[int] = []
    publish = shapes_module._publish
    monkeypatch.setattr(
        shapes_module, "_publish", lambda draft, root: (drawn.append(draft.stat().st_ino), publish(draft, root))
    )
    assert [shapes_root(tiny(tmp_path)).stat().st_ino] == drawn


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes_module, "draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shapes_root(tiny(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.shapes\.cache: expected a folder to write to"):
        shapes_root(tiny(tmp_path / "file" / "cache"))
