"""Image files as they are read."""

import io
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from litedetr.data import DataError, read_image, read_size
from litedetr.data.image_formats import image_suffixes, register_plugins

# Of formats that Pillow opens as stubs: it can tell what they are, not decode them.
STUBS = {
    "features.h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "weather.grib": b"GRIB\0\0\0\1" + bytes(40),
    "weather.bufr": b"BUFR" + bytes(40),
    "drawing.wmf": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 90, 90, 72) + bytes(6) + b"\1\0\t\0" + bytes(40),
}
QUARTER_TURN = 6  # EXIF: to be turned clockwise


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_an_uncompressed_tiff_is_turned_whole(mode: str, tmp_path: Path) -> None:
    """Pillow mixes up its rows when it maps the file."""
    upright = Image.new("RGB", (4, 6), (200, 30, 60))
    upright.paste((20, 180, 90), (0, 0, 4, 2))
    exif = Image.Exif()
    exif[0x0112] = QUARTER_TURN
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    (stored.quantize(2) if mode == "P" else stored.convert(mode)).save(tmp_path / "scan.tif", exif=exif)
    expected = upright.convert("L").convert("RGB") if mode == "L" else upright
    assert np.array_equal(read_image(tmp_path / "scan.tif"), expected)
    assert read_size(tmp_path / "scan.tif") == (6, 4)


@pytest.mark.parametrize("read", [read_image, read_size])
def test_what_is_no_image_is_told_in_words(read: type, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    with pytest.raises(
        DataError, match=r"notes\.jpg: cannot be read as an image: it is of no format that Pillow knows"
    ):
        read(tmp_path / "notes.jpg")


@pytest.mark.parametrize("read", [read_image, read_size])
@pytest.mark.parametrize("name", STUBS)
def test_a_format_that_is_opened_but_not_decoded_is_named(name: str, read: type, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(STUBS[name])
    with pytest.raises(DataError, match=rf"{name}: cannot be read as an image: cannot find loader for this \w+ file"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, read_size])
def test_an_image_without_pixels_is_named(read: type, tmp_path: Path) -> None:
    (tmp_path / "none.gif").write_bytes(b"GIF89a" + bytes(7) + b";")
    with pytest.raises(DataError, match=r"none\.gif: cannot be read as an image: "):
        read(tmp_path / "none.gif")


def test_an_open_file_is_read_like_a_path() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = QUARTER_TURN
    Image.new("RGB", (4, 6)).save(file, "PNG", exif=exif)
    file.seek(0)
    assert read_size(file) == (4, 6)
    file.seek(0)
    assert read_image(file).size == (6, 4)


@pytest.mark.parametrize(
    ("peak", "expected"), [(4095, [0, 63, 127, 255]), (1023, [0, 15, 31, 63]), (65535, [0, 63, 127, 255])]
)
def test_twelve_bits_in_sixteen_are_not_dark(peak: int, expected: list[int], tmp_path: Path) -> None:
    """All images of a 12-bit set by the same factor, also one whose highest value is low."""
    values = np.array([[0, peak // 4, peak // 2, peak]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png"))[0, :, 1].tolist() == expected


def test_the_plugin_that_would_read_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(DataError, match=r"photo\.heic: .* Pillow knows \(pip install pillow-heif\)"):
        read_image(tmp_path / "photo.heic")


def test_installed_plugins_are_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: calls.append("heif")
    plugin.__spec__ = types.SimpleNamespace(name="pillow_heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    register_plugins.cache_clear()
    image_suffixes()
    image_suffixes()
    register_plugins.cache_clear()
    assert calls == ["heif"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow decodes no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 60)).save(tmp_path / "photo.avif", quality=100)
    assert read_size(tmp_path / "photo.avif") == (30, 40)
    assert np.abs(np.asarray(read_image(tmp_path / "photo.avif")).astype(int) - (200, 30, 60)).max() < 9
