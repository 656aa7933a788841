"""Image files as they are read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litedetr.data import DataError, read_image, read_size

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
