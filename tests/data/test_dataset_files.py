"""The files of a data set's images: found under other spellings, and looked at before a run."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from litedetr.data import CocoDetection, DataError, TransformConfig
from litedetr.data.coco_json import CocoJson
from litedetr.data.dataset_layout import SplitFiles

Content = dict[str, Any]
Write = Callable[..., SplitFiles]
ACCENT = "caf\u00e9.png"


def renamed(write: Write, content: Content, index: int, on_disk: str, in_json: str) -> SplitFiles:
    """The split, whose image at `index` lies on the disk as `on_disk` and is called `in_json`."""
    content["images"][index]["file_name"] = on_disk
    files = write(content)
    content["images"][index]["file_name"] = in_json
    files.annotations.write_text(json.dumps(content))
    return files


SPELLINGS = [
    (1, "sub/b.png", "sub\\b.png"),
    (1, "sub/b.png", ".\\sub\\b.png"),
    (0, "my photo.png", "my%20photo.png"),
    (0, "my%20photo.png", "my photo.png"),
    (0, "a.JPG", "a.jpg"),
    (0, "A.png", "a.PNG"),
    (0, unicodedata.normalize("NFD", ACCENT), unicodedata.normalize("NFC", ACCENT)),
    (0, unicodedata.normalize("NFC", ACCENT), unicodedata.normalize("NFD", ACCENT)),
    (0, "a.png", "train/a.png"),
    (0, "a.png", "train\\a.png"),
    (1, "sub/b.png", "/home/someone/photos/sub/b.png"),
    (1, "sub/b.png", "C:\\photos\\sub\\b.png"),
    (1, "sub/b.png", "https://example.org/photos/sub/b.png"),
]


@pytest.mark.parametrize(("index", "on_disk", "in_json"), SPELLINGS)
def test_the_one_file_that_answers_is_taken_with_one_note(
    index: int, on_disk: str, in_json: str, content: Content, write: Write, native: TransformConfig
) -> None:
    files = renamed(write, content, index, on_disk, in_json)
    dataset = CocoDetection(files, native, training=False)
    assert dataset.image_path(content["images"][index]["id"]) == files.images / on_disk
    assert dataset[index].target.image_id == content["images"][index]["id"]
    (note,) = [note for note in dataset.notes if "spelling" in note]
    first = f"the first {in_json!r} to {on_disk!r}"
    assert note == f"{files.annotations}: 1 file name was matched to files of other spelling, {first}"


def test_folders_that_all_names_share_may_be_left_out(content: Content, write: Write) -> None:
    files = write(content)
    for image in content["images"]:
        image["file_name"] = "images\\" + image["file_name"]
    files.annotations.write_text(json.dumps(content))
    found = CocoJson.read(files.annotations).check_files(files.images)
    assert found.names == ["a.png", "sub/b.png", "c.png"]
    assert found.notes[0].startswith(f"{files.annotations}: 3 file names were matched")


def test_a_dot_before_a_name_needs_no_note(content: Content, write: Write) -> None:
    files = renamed(write, content, 0, "a.png", "./a.png")
    assert CocoJson.read(files.annotations).check_files(files.images).notes == []


def test_of_two_files_none_is_taken(content: Content, write: Write) -> None:
    files = renamed(write, content, 0, "a.PNG", "A.PNG")
    (files.images / "A.png").write_bytes((files.images / "a.PNG").read_bytes())
    with pytest.raises(DataError, match=r"A\.PNG \(several files answer to it: A\.png, a\.PNG\)"):
        CocoJson.read(files.annotations).check_files(files.images)


@pytest.mark.parametrize("taken", ["c.png", "./c.png", "sub/../c.png"])
def test_a_file_that_another_name_has_is_not_taken_again(taken: str, content: Content, write: Write) -> None:
    content["images"][2]["file_name"] = taken
    files = renamed(write, content, 0, "a.png", "C.png")
    with pytest.raises(DataError, match=r"1 of its 3 images are not in .*, the first is .*C\.png"):
        CocoJson.read(files.annotations).check_files(files.images)


def test_two_names_do_not_share_a_file(content: Content, write: Write) -> None:
    files = renamed(write, content, 0, "a.png", "A.png")
    content["images"][2]["file_name"] = "A.PNG"
    files.annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"'A\.png' and 'A\.PNG' would both be .*a\.png"):
        CocoJson.read(files.annotations).check_files(files.images)


def test_files_of_another_folder_are_not_taken(content: Content, write: Write) -> None:
    """frames of one camera would be taken for those of another."""
    files = renamed(write, content, 1, "two/b.png", "one/b.png")
    with pytest.raises(DataError, match=r"the first is .*one/b\.png \(near: two/b\.png\)"):
        CocoJson.read(files.annotations).check_files(files.images)


def test_a_missing_file_is_told_with_what_is_near(content: Content, write: Write) -> None:
    files = renamed(write, content, 0, "IMG_0012.png", "IMG_012.png")
    with pytest.raises(DataError, match=r"IMG_012\.png \(near: IMG_0012\.png\)"):
        CocoJson.read(files.annotations).check_files(files.images)


def to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("link", [to_nowhere, to_itself])
def test_a_link_to_nowhere_is_told_at_the_start(
    link: Callable[[Path], None], content: Content, write: Write, native: TransformConfig
) -> None:
    files = write(content)
    for name in ("a.png", "c.png"):
        (files.images / name).unlink()
        link(files.images / name)
    with pytest.raises(DataError, match=r"2 of its 3 images .*, the first is .*a\.png \(a link to nowhere\)"):
        CocoDetection(files, native, training=True)


def test_a_link_to_an_image_is_an_image(content: Content, write: Write, native: TransformConfig) -> None:
    files = write(content)
    (files.images / "a.png").rename(files.images.parent / "elsewhere.png")
    (files.images / "a.png").symlink_to("../elsewhere.png")
    assert CocoDetection(files, native, training=False)[0].target.image_id == 9


FAULTS = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "git lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "it is of no format that Pillow knows, it begins with b'version https://'",
    ),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><html>"), "it begins with b'<!DOCTYPE html><'"),
    "a line feed": (lambda path: path.write_bytes(b"\n"), "it begins with b'\\n'"),
    "404": (lambda path: path.write_bytes(b"404"), "it begins with b'404'"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "cannot find loader for this HDF5 file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_image_is_told_at_the_start(
    name: str, content: Content, write: Write, native: TransformConfig
) -> None:
    spoil, reason = FAULTS[name]
    files = write(content)
    for file in ("sub/b.png", "c.png"):
        spoil(files.images / file)
    with pytest.raises(DataError) as error:
        CocoDetection(files, native, training=True)
    start = f"image id 4 of {files.annotations}: {files.images / 'sub/b.png'}: cannot be read as an image: "
    assert str(error.value).startswith(start)
    assert reason in str(error.value)
    assert str(error.value).endswith("(2 of 3 images are not readable)")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_at_the_start(content: Content, write: Write) -> None:
    files = write(content)
    (files.images / "a.png").chmod(0)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image: Permission denied"):
        CocoJson.read(files.annotations).check_files(files.images)


def test_a_format_without_a_beginning_of_its_own_passes(content: Content, write: Write) -> None:
    files = renamed(write, content, 0, "a.tga", "a.tga")
    Image.new("RGB", (40, 20)).save(files.images / "a.tga")
    assert CocoJson.read(files.annotations).check_files(files.images).names[0] == "a.tga"
