"""From mappings to dataclasses: what fits, and what each mistake is called."""

from __future__ import annotations

import copy
import os
import pickle
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field

from litedetr.settings import (
    ConfigError,
    Flag,
    Integer,
    Maybe,
    Number,
    Pair,
    Some,
    Text,
    choice_of,
    from_mapping,
    require,
    settings,
    to_mapping,
)


@settings("outer.inner")
class Inner:
    mode: Literal["a", "b"] = "a"
    sides: tuple[Integer, ...] = ()
    rate: Maybe[Number] = None
    width: Annotated[Integer, Field(ge=8, le=64, multiple_of=8)] = 8
    share: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    flag: Flag = True

    def __post_init__(self) -> None:
        require(self.mode == "a" or self.flag, "inner.flag", "true with inner.mode=b", self.flag)


@settings()
class Outer:
    count: Integer
    rate: Number = 0.5
    name: Maybe[Text] = None
    betas: Pair[Number] = (0.9, 0.999)
    inner: Inner = field(default_factory=Inner)
    free: Maybe[dict[str, Any]] = None
    names: Some[Text] = ("x",)


def test_there_and_back():
    mapping = {
        "count": 3,
        "rate": 1,
        "name": "x",
        "betas": [0, 1],
        "inner": {"mode": "b", "sides": [1, 2], "rate": 2**63 - 1},
        "free": {"k": [1]},
    }
    config = from_mapping(Outer, mapping)
    assert config == Outer(3, 1.0, "x", (0.0, 1.0), Inner("b", (1, 2), float(2**63)), {"k": [1]})
    assert isinstance(config.rate, float)
    assert from_mapping(Outer, to_mapping(config)) == config


def test_a_number_that_yaml_read_as_text():
    assert from_mapping(Outer, {"count": 1, "rate": "1e-4"}).rate == 1e-4


def test_false_switches_off_what_can_be_off():
    """As `flip=false` and `clip_norm=off` in YAML; true says not how much."""
    config = from_mapping(Outer, {"count": False, "rate": False, "name": False, "inner": {"rate": False}})
    assert config == Outer(0, 0.0, None, inner=Inner(rate=None))
    assert isinstance(config.rate, float)
    with pytest.raises(ConfigError, match=r"^rate: expected a number, got True: true does not say how much$"):
        from_mapping(Outer, {"count": 1, "rate": True})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "top.count: expected a value, got None"),
        ({"count": 1, "cuont": 2}, "top.cuont: expected one of count, rate, .*, got 'cuont'"),
        ({"count": 1, "inner": {"mod": 2}}, "top.inner.mod: expected one of mode, sides, .*, got 'mod'"),
        ({"count": 1, 2: 3}, "top.2: expected one of count, rate, .*, got 2"),
        ({"count": "many"}, "top.count: expected an integer, got 'many'"),
        ({"count": "7"}, "top.count: expected an integer, got '7'"),
        ({"count": 1.5}, "top.count: expected an integer, got 1.5"),
        ({"count": True}, "top.count: expected an integer, got True"),
        ({"count": None}, "top.count: expected an integer, got None"),
        ({"count": 1, "rate": "fast"}, "top.rate: expected a number, got 'fast'"),
        ({"count": 1, "rate": np.array(0.5)}, r"top.rate: expected a number, got array\(0.5\)"),
        ({"count": 1, "name": 5}, """top.name: expected text, got 5: in quotes it is text: 'top.name="5"'"""),
        ({"count": 1, "names": []}, "top.names: expected a list of at least 1, got "),
        ({"count": 1, "names": "ab"}, "top.names: expected a list, got 'ab'"),
        ({"count": 1, "betas": {0.9, 0.999}}, r"top.betas: expected a list, got {"),
        ({"count": 1, "names": np.array(["x"])}, r"top.names: expected a list, got array"),
        ({"count": 1, "betas": [0.9]}, "top.betas: expected a list of 2, got"),
        ({"count": 1, "betas": []}, "top.betas: expected a list of 2, got"),
        ({"count": 1, "betas": [1, 2, 3]}, "top.betas: expected a list of 2, got"),
        ({"count": 1, "inner": {"mode": "c"}}, "top.inner.mode: expected one of 'a' or 'b', got 'c'"),
        ({"count": 1, "inner": {"mode": 1}}, "top.inner.mode: expected one of 'a' or 'b', got 1"),
        ({"count": 1, "inner": {"flag": "yes"}}, "top.inner.flag: expected true or false, got 'yes'"),
        ({"count": 1, "inner": {"flag": 1}}, "top.inner.flag: expected true or false, got 1"),
        ({"count": 1, "inner": {"sides": [1, "x"]}}, r"top.inner.sides\[1\]: expected an integer, got 'x'"),
        ({"count": 1, "inner": {"width": 7}}, "top.inner.width: expected at least 8, got 7"),
        ({"count": 1, "inner": {"width": 65}}, "top.inner.width: expected at most 64, got 65"),
        ({"count": 1, "inner": {"width": 9}}, "top.inner.width: expected a multiple of 8, got 9"),
        ({"count": 1, "inner": {"share": 0}}, "top.inner.share: expected more than 0, got 0"),
        ({"count": 1, "inner": {"share": 1}}, "top.inner.share: expected less than 1, got 1"),
        ({"count": 1, "inner": {"mode": "b", "flag": False}}, "inner.flag: expected true with inner.mode=b, got False"),
        ({"count": 1, "inner": 3}, "top.inner: expected a mapping with the settings of Inner, got 3"),
        ({"count": 1, "free": 3}, "top.free: expected a mapping, got 3"),
        ({"count": 1, "free": {1: 3}}, r"top.free\[1\]: expected text, got 1"),
        ({"count": 2**63}, f"top.count: expected at most {2**63 - 1}, got {2**63}"),
        ({"count": 1, "rate": 10**400}, "top.rate: expected a number, got 1000"),
        ({"count": 1, "rate": "nan"}, "top.rate: expected a finite number, got nan"),
        ({"count": 1, "betas": [0.9, float("inf")]}, r"top.betas\[1\]: expected a finite number, got inf"),
        ({"count": 1, "inner": {"rate": float("-inf")}}, "top.inner.rate: expected a finite number, got -inf"),
        ({"count": 1, "name": " "}, "top.name: expected text that is not empty, got ' '"),
        (None, "top: expected a mapping with the settings of Outer, got None"),
    ],
)
def test_mistakes_are_named_in_one_line(mapping, message):
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        from_mapping(Outer, mapping, "top")
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__  # no traceback of pydantic before it


def test_mistakes_in_python_are_named_by_the_section():
    with pytest.raises(ConfigError, match="^outer.inner.width: expected at least 8, got 3$"):
        Inner("a", (), None, 3)
    with pytest.raises(ConfigError, match="^inner.flag: expected true with"):
        Inner(mode="b", flag=False)
    with pytest.raises(ConfigError, match="^inner.width: expected at least 8, got 3$"):
        Outer(1, inner={"width": 3})
    with pytest.raises(ConfigError, match="^rate: expected a number, got None$"):
        replace(Outer(1), rate=None)
    with pytest.raises(TypeError, match="cuont"):
        Outer(1, cuont=3)


def test_values_of_python_and_numpy_are_converted():
    made = Outer(np.int64(3), np.float32(0.5), Path("a") / "b", [1, 2], names=["x", "y"])
    assert made == Outer(3, 0.5, "a/b", (1.0, 2.0), names=("x", "y"))
    assert [type(value) for value in (made.count, made.rate, made.betas[0])] == [int, float, float]


def test_a_file_whose_name_is_not_in_utf8():
    """As Python has it: with surrogates."""
    name = os.fsdecode(b"caf\xe9")
    made = from_mapping(Outer, {"count": 1, "name": Path(name)})
    assert made.name == name
    assert from_mapping(Outer, to_mapping(made)) == made


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        ([7] * 1000, str([7] * 1000)[:300] + "..."),
    ],
)
def test_a_value_in_an_error_takes_one_line(value: object, shown: str):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, {"count": value})
    assert str(caught.value) == f"count: expected an integer, got {shown}"


def test_settings_are_frozen_dataclasses():
    made = Outer(3)
    with pytest.raises(FrozenInstanceError):
        made.count = 4
    assert [one.name for one in fields(made)] == list(asdict(made))
    assert hash(made) == hash(Outer(3))
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made == replace(Outer(2), count=3)


@settings("shape")
class Circle:
    name: Literal["circle"] = "circle"
    radius: Number = 1.0


@settings("shape")
class Square:
    name: Literal["square"] = "square"
    side: Annotated[Number, Field(ge=0)] = 2.0


@settings()
class Drawing:
    shape: choice_of({"circle": Circle, "square": Square}, "shape") = Circle()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Circle()),
        ({"shape": "square"}, Square()),
        ({"shape": {"name": "square", "side": "3"}}, Square(side=3.0)),
        ({"shape": Square(side=4.0)}, Square(side=4.0)),
    ],
)
def test_a_choice_has_settings_of_its_own(given: dict, expected: object):
    drawing = from_mapping(Drawing, given)
    assert drawing.shape == expected
    assert from_mapping(Drawing, to_mapping(drawing)) == drawing


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ring", "shape.name: expected one of 'circle' or 'square', got 'ring'"),
        ({"side": 3}, "shape.name: expected one of 'circle' or 'square', got None"),
        ({"name": "circle", "side": 3}, "shape.side: expected one of name, radius, got 'side'"),
        ({"name": "square", "side": -1}, "shape.side: expected at least 0, got -1"),
        (7, "shape.name: expected one of 'circle' or 'square', got 7"),
    ],
)
def test_a_choice_that_does_not_exist_is_named(given: object, message: str):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Drawing(shape=given)
