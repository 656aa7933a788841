"""Finding the images to predict on."""

from pathlib import Path

import pytest
from PIL import Image, ImageFile

from litedetr.data import DataError, find_images, read_image, read_size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("frame_10.jpg", "frame_2.png", "frame_1.JPG", "inner/deep.jpg", "inner/.hidden.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_in_natural_order_without_its_subfolders(folder: Path):
    files = find_images(str(folder))
    assert [files.name(path) for path in files.paths] == ["frame_1.JPG", "frame_2.png", "frame_10.jpg"]


def test_a_folder_gives_what_can_be_decoded_and_counts_what_a_plugin_would_read(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("a.heic", "b.HEIC", "c.jxl", "features.h5", "clip.mpg", "clip.mpeg", "paper.pdf", "drawing.wmf"):
        (folder / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9))
    Image.new("RGB", (4, 3)).save(folder / "pair.mpo", save_all=True, append_images=[Image.new("RGB", (4, 3))])
    names = ["frame_1.JPG", "frame_2.png", "frame_10.jpg", "pair.mpo"]
    assert [path.name for path in find_images(str(folder)).paths] == names
    expected = [
        "2 .heic files left out: pip install pillow-heif",
        "1 .jxl file left out: pip install pillow-jxl-plugin",
    ]
    assert caplog.messages == expected
    assert read_size(folder / "pair.mpo") == (3, 4)


def test_one_file(folder: Path):
    files = find_images(str(folder / "frame_2.png"))
    assert files.folder == folder
    assert files.paths == (folder / "frame_2.png",)


def test_a_pattern_over_subfolders(folder: Path):
    files = find_images(f"{folder}/**/*.jpg")
    assert [files.name(path) for path in files.paths] == ["frame_10.jpg", "inner/deep.jpg"]
    files = find_images(f"{folder}/inner/d*")
    assert [files.name(path) for path in files.paths] == ["deep.jpg"]


@pytest.mark.parametrize(
    ("source", "message"), [("none", "none: not there"), ("*.gif", "found none in"), ("inner/empty", "found none in")]
)
def test_a_source_without_images_is_named(folder: Path, source: str, message: str):
    (folder / "inner" / "empty").mkdir()
    with pytest.raises(DataError, match=f"source: expected .*{message}"):
        find_images(str(folder / source))


def test_a_video_is_told_how_to_become_frames(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"got the video .*clip\.mp4; ffmpeg -i"):
        find_images(str(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (3, 5)), (3, (3, 5)), (6, (5, 3)), (8, (5, 3))])
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, orientation: int, size: tuple[int, int], suffix: str):
    path, exif = tmp_path / f"image.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (5, 3)).save(path, exif=exif)
    assert read_size(path) == read_image(path).size[::-1] == size


def test_the_size_of_what_is_no_image(tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.jpg: cannot be read as an image"):
        read_size(tmp_path / "broken.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_size_is_read_without_decoding(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (5, 3)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("the pixels were decoded"))
    assert read_size(path) == (3, 5)
