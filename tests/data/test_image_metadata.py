"""Good pixels stay readable whatever the file says beside them, and are turned as its orientation says."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from file_metadata import (
    FLOAT,
    PIXELS,
    RESOLUTION_UNIT,
    XMP,
    any_metadata,
    chunk,
    entry,
    exif,
    jpeg,
    png,
    segment,
    stored,
    tiff,
    turned,
    webp,
)
from hypothesis import given, settings
from PIL import Image, ImageOps, features

from litedetr.data import read_image, read_size

FLOAT_UNIT = entry(RESOLUTION_UNIT, FLOAT, 1, struct.pack("<f", 2))
BEYOND = entry(0x010F, 2, 100, struct.pack("<I", 10_000))  # the camera's maker, beyond the end
LARGE_TEXT = b"key\0\0" + zlib.compress(b"a" * 2**21)  # twice what Pillow takes
HEX = b"Raw profile type exif\0\nexif\n  26\n" + exif(turned(6)).hex().encode()
# name -> the file's bytes and its orientation
FILES = {
    "png, words for EXIF": (png(chunk(b"eXIf", b"hello world")), 1),
    "png, words for EXIF behind the pixels": (png(chunk(b"eXIf", b"hello world"), behind=True), 1),
    "jpeg, words for EXIF": (jpeg(segment(0xE1, b"Exif\0\0hello world")), 1),
    "webp, words for EXIF": (webp(b"hello world"), 1),
    "png, unit as float": (png(chunk(b"eXIf", exif(turned(6), FLOAT_UNIT))), 6),
    "png, behind the pixels": (png(chunk(b"eXIf", exif(turned(6))), behind=True), 6),
    "jpeg, unit as float": (jpeg(segment(0xE1, b"Exif\0\0" + exif(turned(6), FLOAT_UNIT))), 6),
    "webp, unit as float": (webp(exif(turned(6), FLOAT_UNIT)), 6),
    "tiff, unit as float": (tiff(turned(6), FLOAT_UNIT), 6),
    "tiff, resolution as text": (tiff(entry(282, 2, 2, b"ab"), turned(8)), 8),
    "tiff, XMP of another type": (tiff(entry(700, 3, 2, b"abcd")), 1),
    "tiff, a value beyond the end": (tiff(entry(270, 2, 100, b"\xff\xff\xff\x00"), turned(3)), 3),
    "jpeg, a value beyond the end": (jpeg(segment(0xE1, b"Exif\0\0" + exif(BEYOND, turned(8)))), 8),
    "png, a value beyond the end": (png(chunk(b"eXIf", exif(BEYOND, turned(7)))), 7),
    "jpeg, EXIF cut in its folder": (jpeg(segment(0xE1, b"Exif\0\0" + exif(turned(5), FLOAT_UNIT)[:26])), 5),
    "jpeg, no such orientation": (jpeg(segment(0xE1, b"Exif\0\0" + exif(turned(77)))), 1),
    "jpeg, orientation as text": (jpeg(segment(0xE1, b"Exif\0\0" + exif(entry(0x112, 2, 2, b"6")))), 1),
    "jpeg, orientation as float": (
        jpeg(segment(0xE1, b"Exif\0\0" + exif(entry(0x112, FLOAT, 1, struct.pack("<f", 6))))),
        6,
    ),
    "png, long text": (png(chunk(b"zTXt", LARGE_TEXT) + chunk(b"eXIf", exif(turned(6)))), 6),
    "png, long text behind the pixels": (png(chunk(b"zTXt", LARGE_TEXT), behind=True), 1),
    "png, a wrong checksum of a text": (png(chunk(b"tEXt", b"key\0text", checksum=1)), 1),
    "png, short pHYs, gAMA and cHRM": (png(chunk(b"pHYs", b"1") + chunk(b"gAMA", b"") + chunk(b"cHRM", b"1")), 1),
    "png, a colour profile that is none": (png(chunk(b"iCCP", b"name\0\0rubbish")), 1),
    "jpeg, short JFIF": (jpeg(segment(0xE0, b"JFIF")), 1),
    "jpeg, short colour profile": (jpeg(segment(0xE2, b"ICC_PROFILE\0")), 1),
    "jpeg, bytes that fill up": (
        jpeg(b"\xff\xff" + segment(0xE2, b"MPF\0II*\0rubbish") + b"\xff" + segment(0xE2, b"ICC_PROFILE\0")),
        1,
    ),
    "jpeg, short Adobe": (jpeg(segment(0xEE, b"Adobe")), 1),
    "jpeg, broken list of further pictures": (jpeg(segment(0xE2, b"MPF\0II*\0rubbish")), 1),
    "png, XMP": (png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6)), 6),
    "png, EXIF as text": (png(chunk(b"tEXt", HEX)), 6),
    "jpeg, XMP": (jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % 8)), 8),
    "webp, XMP": (webp(b"", xmp=XMP % 5), 5),
    "EXIF before XMP": (webp(exif(turned(3)), xmp=XMP % 5), 3),
    "bytes behind the end": (stored("PNG") + b"rubbish", 1),
    "mpo": (stored("MPO", quality=100, subsampling=0, save_all=True, append_images=[Image.new("RGB", (6, 4))]), 1),
}


@pytest.mark.skipif(not features.check("avif"), reason="a build of Pillow without AVIF")
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("spoil", [b"hell", b""], ids=["words for EXIF", "unit as float"])
def test_metadata_of_an_avif_do_not_spoil_pixels(spoil: bytes, orientation: int, tmp_path: Path) -> None:
    """Its own properties tell how it is turned."""
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "image", "AVIF", exif=exif(turned(orientation), entry(RESOLUTION_UNIT, 3, 1, b"\2\0")))
    data = (tmp_path / "image").read_bytes()
    unit = struct.pack("<HH", RESOLUTION_UNIT, 3)
    bad = data.replace(b"II*\0", spoil) if spoil else data.replace(unit, struct.pack("<HH", RESOLUTION_UNIT, FLOAT))
    assert bad != data
    found = []
    for content in (data, bad):
        (tmp_path / "image").write_bytes(content)
        found.append(np.asarray(read_image(tmp_path / "image")))
        assert read_size(tmp_path / "image") == found[-1].shape[:2] == ((6, 4) if orientation == 6 else (4, 6))
    assert np.array_equal(*found)


def check(data: bytes, orientation: int, folder: Path) -> None:
    path = folder / "image"
    path.write_bytes(data)
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    found = np.asarray(read_image(path)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() <= (2 if data.startswith(b"\xff\xd8") else 0)
    assert read_size(path) == found.shape[:2]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", FILES)
def test_metadata_do_not_spoil_pixels(name: str, tmp_path: Path) -> None:
    check(*FILES[name], tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_metadata_of_any_kind(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")

    @settings(max_examples=200)
    @given(any_metadata())
    def run(case: tuple[bytes, int]) -> None:
        check(*case, folder)

    run()
