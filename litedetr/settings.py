"""Settings: frozen dataclasses that pydantic checks. A wrong entry is a ConfigError of one line that names it.

A new setting is a field with a type, bounds and a default, like the one below, and an entry of the same name and
default in conf/ (docs/configuration.md).

@settings("backbone")
class BackboneConfig:
    frozen_stages: Annotated[Integer, Field(ge=0, le=5)] = 2  # how many of (stem, layer1, ..., layer4) are not trained
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import field
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    StrictBool,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError, PydanticKnownError, to_jsonable_python
from typing_extensions import dataclass_transform

from litedetr.renamed_settings import RENAMED

T = TypeVar("T")
MOST_INTEGER = 2**63 - 1  # that fits into a tensor
MOST_CHARACTERS = 300  # of a value in an error


class ConfigError(ValueError):
    """A setting that cannot work; the message names it, what was expected and what came."""


def require(condition: bool, name: str, expected: str, value: object, advice: str = "") -> None:
    """Raise ConfigError for the setting `name` unless `condition` holds. advice: what to set instead."""
    if not condition:
        raise _error(name, expected, value, advice)


def require_known(mapping: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ConfigError for a setting of `mapping` that nothing reads."""
    for name in mapping:
        if name not in known:
            raise _unknown(name, ", ".join(known), name)


def _unknown(name: str, known: str, given: str) -> ConfigError:
    if name in RENAMED:
        return ConfigError(f"{name}: renamed to {RENAMED[name]}")
    return _error(name, f"one of {known}", given)


def _error(name: str, expected: str, value: object, advice: str = "") -> ConfigError:
    got = " ".join(line.strip() for line in repr(value).splitlines())  # a tensor's has several
    got = got if len(got) <= MOST_CHARACTERS else f"{got[:MOST_CHARACTERS]}..."
    return ConfigError(f"{name}: expected {expected}, got {got}" + (f": {advice}" if advice else ""))


def _as_integer(value: Any) -> Any:
    """NumPy's integers as Python's, and YAML's false, no and off as 0."""
    return int(value) if isinstance(value, Integral) and value is not True else value


def _as_number(value: Any) -> float:
    """Real numbers as floats, YAML's false, no and off as 0, and 1e-4 and the like, which YAML 1.1 reads as text."""
    if isinstance(value, (Real, str)) and value is not True:
        with suppress(ValueError, OverflowError):
            return float(value)
    raise PydanticKnownError("float_type")  # pydantic itself would take a tensor


def _as_text(value: Any) -> str:
    """Text and paths as text. Pydantic itself would refuse a file's name that is not in UTF-8."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise PydanticKnownError("string_type")
    if not text.strip():
        raise PydanticCustomError("empty", "text that is not empty")
    return str.__str__(text)


def _as_list(value: Any) -> Any:
    """Pydantic itself would take a set, which has no order."""
    if not isinstance(value, (list, tuple)):
        raise PydanticKnownError("tuple_type")
    return value


def key_of(known: Mapping[str, Any]) -> Any:
    """The type of a setting that is a name in `known`, as `known` is when the setting is checked."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            *names, last = map(repr, known)
            expected = f"{', '.join(names)} or {last}" if names else last
            raise PydanticKnownError("literal_error", {"expected": expected})
        return str.__str__(value)

    return Annotated[str, PlainValidator(check)]


def choice_of(known: Mapping[str, type], section: str) -> Any:
    """The type of a setting that is an object of one of the dataclasses in `known`, each with settings of its own.

    It is given as the name in `known`, or as a mapping of `name` and settings. section: its path, for errors.
    """
    name_of_one = key_of(known)

    def check(value: Any) -> Any:
        if isinstance(value, tuple(known.values())):
            return value
        given = value if isinstance(value, Mapping) else {"name": value}
        name = as_type(name_of_one, given.get("name"), f"{section}.name")
        return as_type(known[name], {**given, "name": name}, section)

    return Annotated[Any, PlainValidator(check)]


def _none_if_off(value: Any) -> Any:
    """YAML's false, no and off as None."""
    return None if value is False else value


# The types of fields. A field adds its bounds to one: Annotated[Integer, Field(ge=0)].
Flag = StrictBool
Text = Annotated[str, PlainValidator(_as_text)]  # not empty; paths are taken too
Integer = Annotated[int, Strict(), Field(ge=-MOST_INTEGER, le=MOST_INTEGER), BeforeValidator(_as_integer)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_as_number)]  # finite
Maybe = Annotated[T | None, BeforeValidator(_none_if_off)]
Many = Annotated[tuple[T, ...], BeforeValidator(_as_list)]
Some = Annotated[Many[T], Field(min_length=1)]
Pair = Annotated[tuple[T, T], BeforeValidator(_as_list)]
Count = Annotated[Integer, Field(ge=1)]
NotNegative = Annotated[Integer, Field(ge=0)]
Probability = Annotated[Number, Field(ge=0, le=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def settings(section: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass whose fields pydantic checks and converts, whether it is made in Python or by
    `from_mapping`. Its own `__post_init__` sees the converted fields.

    section: the path of its settings, `data.transforms`, for the errors of an object that is made in Python.
    """

    def decorate(cls: type[T]) -> type[T]:
        cls._known_only = model_validator(mode="before")(classmethod(_known_only))
        checked = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
        make, signature = checked.__init__, inspect.signature(checked)

        @functools.wraps(make)
        def __init__(self: T, *args: Any, **kwargs: Any) -> None:
            named = signature.bind(*args, **kwargs).arguments
            with _in_one_line(section):
                make(self, **named)

        checked.__init__ = __init__
        return checked

    return decorate


def _known_only(cls: type, given: Any) -> Any:
    """Before the fields of `cls` are looked at: a mapping as a dict, without settings that nothing reads."""
    if not isinstance(given, Mapping):
        return given
    for name in given:
        if name not in cls.__dataclass_fields__:
            known = ", ".join(cls.__dataclass_fields__)
            raise PydanticCustomError("unknown_setting", "one of {known}", {"known": known, "name": name})
    return dict(given)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], path: str = "") -> T:
    """Build dataclass `cls` from `mapping`, and its fields that are dataclasses from mappings in it.

    path: the section that the mapping is, for the ConfigError.
    """
    return as_type(cls, mapping, path)


def as_type(hint: Any, value: object, name: str) -> Any:
    """`value` as the type `hint`, one of the above or a dataclass, has it.

    Raises ConfigError for the setting or argument `name` if it does not fit.
    """
    with _in_one_line(name):
        return _adapter(hint).validate_python(value)


_adapter = functools.cache(TypeAdapter)


def to_mapping(config: object) -> dict[str, Any]:
    """The inverse of `from_mapping`: plain dicts, lists, numbers and strings, as a checkpoint holds them."""
    return to_jsonable_python(config)


# For each of pydantic's types of error, what was expected. Names in braces come from pydantic's error.
EXPECTED = {
    "missing": "a value",
    "dataclass_type": "a mapping with the settings of {class_name}",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "too_long": "a list of {max_length}",  # only lists of a fixed length have a maximum
    "too_short": "a list of at least {min_length}",
    "is_instance_of": "a {class}",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "string_unicode": "text in Unicode",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "literal_error": "one of {expected}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
}


@contextmanager
def _in_one_line(section: str) -> Iterator[None]:
    """Turn pydantic's errors into the first one's ConfigError."""
    try:
        yield
    except ValidationError as errors:
        raise _first(errors, section) from None


def _first(errors: ValidationError, section: str) -> Exception:
    all_of_them = errors.errors(include_url=False)
    first = all_of_them[0]
    kind, context, value, path = first["type"], first.get("ctx", {}), first["input"], first["loc"]
    if kind == "value_error":  # raised by a __post_init__, and named there
        return context["error"]
    if kind == "unknown_setting":
        return _unknown(_dotted(section, (*path, str(context["name"]))), context["known"], context["name"])
    if kind == "missing" and isinstance(path[-1], int):  # an item of a list
        *path, _ = path
        length = 1 + max(error["loc"][-1] for error in all_of_them if error["loc"][:-1] == tuple(path))
        return _error(_dotted(section, path), f"a list of {length}", value)
    if kind == "missing":
        value = None
    name = _dotted(section, path) or context.get("class_name", "")
    expected = EXPECTED[kind].format_map(context) if kind in EXPECTED else first["msg"].removeprefix("Input should be ")
    return _error(name, expected, value, _advice(kind, name, value))


def _advice(kind: str, name: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, (bool, int, float)):  # a file named 1.0, say
        return f"in quotes it is text: '{name}=\"{value}\"'"
    return "true does not say how much" if kind == "float_type" and value is True else ""


def _dotted(section: str, path: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path if part != "[key]")
    return (section + "".join(parts)).lstrip(".")
