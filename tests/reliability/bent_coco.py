"""COCO files for three small images, bent by Hypothesis; what is drawn is the file's bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]
DROP = "\x01drop"
SIZES = {"a.png": (40, 20), "sub/b.png": (30, 50), "c.png": (16, 16)}  # (width, height) of the files that are there
CONTENT = {
    "images": [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in zip((9, 4, 7), SIZES.items(), strict=True)
    ],
    "annotations": [
        {"id": 0, "image_id": 4, "category_id": 5, "bbox": [3, 10, 12, 20], "area": 200, "iscrowd": 0},
        {"id": 11, "image_id": 9, "category_id": 90, "bbox": [4, 5, 20, 10], "area": 200, "iscrowd": 0},
        {"id": 12, "image_id": 4, "category_id": 90, "bbox": [1.5, 1, 6, 6], "area": 30, "iscrowd": 0},
        {"id": 13, "image_id": 4, "category_id": 5, "bbox": [0, 0, 30, 50], "area": 900, "iscrowd": 1},
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 5, "name": "cat"}, {"id": 7, "name": "emu"}],
}


@dataclass(frozen=True)
class Edit:
    """Put `value` where `place`, keys and indices, leads; DROP takes away what is there."""

    place: Place
    value: Any

    def apply(self, content: Any) -> None:
        *way, last = self.place
        try:
            for step in way:
                content = content[step]
            if self.value == DROP:
                del content[last]
            else:
                content[last] = deepcopy(self.value)
        except (KeyError, IndexError, TypeError):
            pass  # an edit before took the place away


def written(literal: str) -> str:
    """A value that stands in the file as `literal`, which `json.dumps` would not write."""
    return f"\x01{literal}"


def as_bytes(content: Any) -> bytes:
    text = json.dumps(content)
    return re.sub(r'"\\u0001([^"]*)"', lambda match: match[1], text).encode()


def _places(content: Any, place: Place = ()) -> Iterator[Place]:
    """Every place below `content`."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in entries:
        yield (*place, step)
        yield from _places(value, (*place, step))


PLACES = tuple(_places(CONTENT))
LEAVES = tuple(place for place in PLACES if not any(other[:-1] == place for other in PLACES))
NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**9, 10**400, -(10**400), 4, 5, 9, 90)
FLOATS = (0.0, -0.0, 1.0, 5.5, 1e-320, 1e9, 1e308, -1e308, float("nan"), float("inf"), float("-inf"))
LITERALS = (
    "1e400",
    "-1E+999",
    "9" * 5000,
    "[" * 300 + "]" * 300,
    "[" * 950 + "]" * 950,
    "[" * 20_000 + "]" * 20_000,
    "tru",
    "",
)
TEXTS = (
    "",
    "5",
    "cat",
    "c.png",
    "sub",
    ".",
    "..",
    "../c.png",
    "/etc/passwd",
    "/dev/null",
    "a\0.png",
    "x" * 300,
    "x" * 300 + "/a.png",
    "\ud800",
    "a\nb",
    "\u202e日本",
)
OTHERS = (None, True, False, [], {}, [[]], [None] * 4, {"id": 4}, ["4", 1, 1, 1], [1] * 5, DROP)
RUBBISH = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(FLOATS),
    st.sampled_from(LITERALS).map(written),
    st.sampled_from(TEXTS),
    st.sampled_from(OTHERS),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.sampled_from(NUMBERS + FLOATS), min_size=4, max_size=4),
)
NO_TEXT = ("Cc", "Cs", "Zl", "Zp")


def _edits(kind: str, index: Any, key: str, value: Any) -> Any:
    place = st.builds(lambda number: (kind, number, key), index)
    return st.builds(Edit, place, value)


def legal_edits(folder: str) -> Any:
    """Edits that leave a COCO file; `folder` is that of the images."""
    annotation, unused = st.integers(0, 3), st.just(2)  # no annotation names the last image and the last category
    far, size = st.floats(-1e3, 1e3) | st.integers(-100, 100), st.floats(0, 1e3) | st.integers(0, 60)
    name = st.text(st.characters(exclude_categories=NO_TEXT), max_size=6) | st.sampled_from(("dog", "cat"))
    free_id = st.integers(-(2**63), 2**63 - 1).filter(lambda number: number not in (90, 5, 9, 4))
    ways = st.sampled_from(("./a.png", "sub/../a.png", f"{folder}/a.png", "sub//../a.png", "a.png"))
    return st.one_of(
        _edits("annotations", annotation, "bbox", st.tuples(far, far, size, size).map(list)),
        _edits("annotations", annotation, "iscrowd", st.sampled_from((0, 1, True, False, 1.0, DROP))),
        _edits("annotations", annotation, "ignore", st.sampled_from((0, 1, True, False, DROP))),
        _edits("annotations", annotation, "area", st.floats(0, 1e6) | st.integers(0, 10**6) | st.just(DROP)),
        _edits("annotations", annotation, "image_id", st.sampled_from((9, 4))),
        _edits("annotations", annotation, "category_id", st.sampled_from((90, 5))),
        _edits(
            "annotations", st.just(1), "id", st.integers(min_value=14) | st.sampled_from((DROP, None, "x", "", [4]))
        ),
        _edits("annotations", annotation, "rest", RUBBISH.filter(_is_json)),
        _edits("categories", st.integers(0, 2), "name", name),
        _edits("categories", unused, "id", free_id),
        _edits("images", unused, "id", free_id),
        _edits("images", st.just(0), "file_name", ways),
        st.builds(Edit, st.just(("annotations",)), st.just([])),
    )


def _is_json(value: Any) -> bool:
    """Whether it can stand in a file that is to be read."""
    return value != DROP and not (isinstance(value, str) and value.startswith("\x01"))


def bent(edits: list[Edit]) -> bytes:
    content = deepcopy(CONTENT)
    for edit in edits:
        edit.apply(content)
    return as_bytes(content)


def legal_files(folder: str) -> Any:
    encodings = st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"))
    files = st.lists(legal_edits(folder), min_size=1, max_size=4).map(bent)
    return st.builds(lambda data, encoding: data.decode().encode(encoding), files, encodings)


def broken_files(folder: str) -> Any:
    """Legal edits, and one or two that put rubbish anywhere; now and then damaged as text."""
    number = st.sampled_from(NUMBERS) | st.integers(-5, 60) | st.floats(-100, 100)
    rubbish = st.builds(Edit, st.sampled_from(PLACES), RUBBISH)
    likely = st.builds(Edit, st.sampled_from(LEAVES), number)
    edits = st.builds(
        list.__add__, st.lists(legal_edits(folder), max_size=2), st.lists(likely | rubbish, min_size=1, max_size=2)
    )
    return st.builds(_damaged, edits.map(bent), st.sampled_from(DAMAGES), st.floats(0, 1))


def _damaged(data: bytes, damage: str, where: float) -> bytes:
    place = int(where * len(data))
    if damage == "cut":
        return data[:place]
    if damage == "key twice":
        return b'{"images": [], ' + data[1:]
    if damage:
        return data[:place] + damage.encode("latin-1") + data[place:]
    return data


DAMAGES = ("",) * 40 + ("cut", "key twice", "\xff", "\0", "\xef\xbb\xbf", ",", '"', "\\")


def any_json() -> Any:
    """Whatever JSON can say, with COCO's keys now and then."""
    keys = st.sampled_from(("images", "annotations", "categories", "id", "bbox", "name")) | st.text(max_size=3)
    leaves = RUBBISH.filter(_is_json)
    values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
    entries = st.lists(st.dictionaries(keys, values, max_size=4), max_size=2)
    coco = st.fixed_dictionaries(dict.fromkeys(CONTENT, values | entries))
    return st.one_of(values, coco).map(as_bytes)
