"""Every field of every settings class with values of any kind: converted to its type, or one line that names it."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

import litedetr
from litedetr.settings import ConfigError, as_type


class Mode(str, Enum):
    AUTO = "auto"


class Number(IntEnum):
    ONE = 1


NUMBERS = [0, 1, -1, 3, 64, 2**63, 2**70, 10**400, 0.0, 0.5, 1e300, math.nan, -math.inf, 1 + 2j, Decimal("NaN")]
NUMBERS += [
    Decimal(3),
    Fraction(1, 2),
    True,
    False,
    Number.ONE,
    np.int8(3),
    np.uint64(2**63),
    np.float16(1),
    np.bool_(1),
]
TEXTS = [
    "",
    " \n",
    "abc",
    "0.5",
    "1e400",
    "nan",
    "0x10",
    "auto",
    "\udce9",
    "a\0b",
    "x" * 10**5,
    Mode.AUTO,
    np.str_("a"),
]
TENSORS = [torch.tensor(1.0), torch.tensor(1), torch.tensor(True), torch.zeros(3, 3), torch.float16, np.array(0.5)]
ARRAYS = [np.array([1, 2]), np.array([]), np.zeros((3, 3)), np.complex64(1), np.datetime64("2020")]
LISTS = [[], [None], [1], [1, 2], [0.5, 0.5], ["a", 1], [[1]], [[1, 1, 1]], (), ({},), list(range(10**4)), range(3)]
MAPPINGS = [{}, {"x": 1}, {1: 2}, {None: {}}, {"": 1}, {"a": {"b": 1}}]
OTHERS = [None, {1, 2}, b"", b"abc", bytearray(b"1"), Path("a"), Path("\udce9"), int, object(), ..., slice(1), print]
VALUES = [*NUMBERS, *TEXTS, *TENSORS, *ARRAYS, *LISTS, *MAPPINGS, *OTHERS]
# Sections of settings that are a choice with settings of its own, and say their path themselves.
CHOICES = ("loss.classification", "loss.class_cost")
NOT_OURS = ("Input should", "unable to", "valid", "instance of", "pydantic", "Field required")


def settings_classes() -> list[type]:
    """All of the package."""
    modules = [importlib.import_module(module.name) for module in pkgutil.walk_packages(litedetr.__path__, "litedetr.")]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "_known_only")
    }
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__name__}")


def is_plain(value: object) -> bool:
    """Whether `value` is made of Python's own types, and finite."""
    if is_dataclass(value):
        return all(is_plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(type(name) is str for name in value)
    return type(value) in (int, str, bool, type(None)) or (type(value) is float and math.isfinite(value))


def problem(hint: Any, value: Any) -> str | None:
    """What is wrong with how a setting of type `hint` takes `value`."""
    try:
        made = as_type(hint, value, "section.name")
    except ConfigError as error:
        message = str(error)
    except Exception as error:
        return repr(error)
    else:
        return None if is_plain(made) and as_type(hint, made, "section.name") == made else f"became {made!r}"
    name, _, expected = message.partition(", got ")[0].partition(": expected ")
    is_clear = (
        name.startswith(("section.name", *CHOICES)) and expected and not any(word in expected for word in NOT_OURS)
    )
    return None if is_clear and "\n" not in message and len(message) < 1000 else message[:1000]


@pytest.mark.parametrize("cls", settings_classes(), ids=lambda cls: cls.__name__)
def test_a_value_of_any_kind_is_converted_or_refused_in_one_line(cls: type):
    hints = get_type_hints(cls, include_extras=True)
    found = {
        (field.name, repr(value)[:99]): problem(hints[field.name], value) for field in fields(cls) for value in VALUES
    }
    assert not {case: what for case, what in found.items() if what is not None}


def test_all_settings_are_there():
    assert {"RunConfig", "EncoderConfig", "PredictConfig", "ReportConfig"} < {
        cls.__name__ for cls in settings_classes()
    }
